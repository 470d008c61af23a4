//! TLS settings, made so that no system file is read unless an `https` address needs it.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::TlsConfig;
use crate::error::Error;

/// Settings for [`reqwest::ClientBuilder::tls_backend_preconfigured`], with ring named as the provider: a process-wide
/// default need not be installed, and reqwest's own choice (the platform's verifier) would fail to build in a
/// container without CA certificates even for plain http.
pub(crate) fn client_config(config: &TlsConfig, https: bool) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| tls("cannot choose protocol versions".to_owned(), error))?
        .with_root_certificates(roots(config, https)?);
    let mut client = match (&config.client_cert_file, &config.client_key_file) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let key_der = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| tls(format!("cannot read the client key {}", key.display()), error))?;
            builder.with_client_auth_cert(chain, key_der).map_err(|error| {
                tls(
                    format!("cannot use {} with the key {}", cert.display(), key.display()),
                    error,
                )
            })?
        }
        (Some(cert), None) => {
            return Err(problem(format!(
                "the client certificate {} has no key: give its key file too",
                cert.display()
            )));
        }
        (None, Some(key)) => {
            return Err(problem(format!(
                "the client key {} has no certificate: give its certificate file too",
                key.display()
            )));
        }
    };
    // HTTP/1.1 only: a request that misses its deadline takes its connection with it, so that a frozen peer is never
    // asked twice over the same connection. HTTP/2 would share one connection between all watches.
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(client)
}

fn roots(config: &TlsConfig, https: bool) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    if let Some(path) = &config.ca_file {
        for certificate in certificates(path)? {
            store.add(certificate).map_err(|error| {
                tls(
                    format!("cannot use a CA certificate in {}", path.display()),
                    error,
                )
            })?;
        }
    } else if https {
        // Certificates that cannot be parsed are common in system bundles; what counts is that some can.
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = store.add_parsable_certificates(found.certs);
        if added == 0 {
            return Err(problem(
                "the address is https and the system has no CA certificates: give a CA file".to_owned(),
            ));
        }
    }
    Ok(store)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| tls(format!("cannot read certificates from {}", path.display()), error))?;
    if certificates.is_empty() {
        return Err(problem(format!("{} holds no PEM certificate", path.display())));
    }
    Ok(certificates)
}

fn tls(problem: String, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Tls {
        problem,
        source: Some(Box::new(source)),
    }
}

fn problem(problem: String) -> Error {
    Error::Tls {
        problem,
        source: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_needs_no_certificates() {
        assert!(client_config(&TlsConfig::default(), false).is_ok());
    }

    #[test]
    fn wrong_files_are_named() {
        let dir = tempfile::tempdir().expect("dir");
        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "no certificate").expect("write");
        let missing = dir.path().join("missing.pem");
        for (config, name) in [
            (
                TlsConfig {
                    ca_file: Some(empty.clone()),
                    ..TlsConfig::default()
                },
                "empty.pem",
            ),
            (
                TlsConfig {
                    ca_file: Some(missing.clone()),
                    ..TlsConfig::default()
                },
                "missing.pem",
            ),
            (
                TlsConfig {
                    client_cert_file: Some(empty.clone()),
                    ..TlsConfig::default()
                },
                "has no key",
            ),
            (
                TlsConfig {
                    client_key_file: Some(empty),
                    ..TlsConfig::default()
                },
                "has no certificate",
            ),
        ] {
            let error = client_config(&config, true).expect_err(name).to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
