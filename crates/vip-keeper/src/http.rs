//! The client of HTTP that hooks and peers use.

use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};

/// A client that gives up after `patience` and follows no redirects. The system's certificates are read only for `https`: an
/// image may have none.
///
/// # Errors
/// With what is missing.
pub(crate) fn client(patience: Duration, https: bool) -> Result<reqwest::Client, String> {
    let mut roots = RootCertStore::empty();
    if https {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(
                "this system has no CA certificates, and a hook is an https URL: mount them (SSL_CERT_FILE)"
                    .to_owned(),
            );
        }
    }
    // The provider is named here: a process-wide default need not be installed.
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .timeout(patience)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| error.to_string())
}
