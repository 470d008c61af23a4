//! TLS settings. No system file is read unless an `https` endpoint needs it, and files are checked before anything is
//! connected to: tonic would take a file that holds no certificate for one with no more to say.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tonic::transport::{ClientTlsConfig, Identity};

use crate::config::{Config, ConfigError, TlsConfig};

/// What the `https` endpoints are spoken to with; `None` when there are none.
pub(crate) fn client_tls(config: &Config) -> Result<Option<ClientTlsConfig>, ConfigError> {
    let Some(endpoint) = config.endpoints.iter().find(|endpoint| endpoint.is_https()) else {
        return Ok(None);
    };
    let roots = match &config.tls.ca_file {
        Some(path) => roots_of_file(path)?,
        None => roots_of_system(&endpoint.to_string())?,
    };
    let identity = identity(&config.tls, &roots)?;
    let tls = ClientTlsConfig::new().trust_anchors(roots.roots);
    Ok(Some(match identity {
        Some(identity) => tls.identity(identity),
        None => tls,
    }))
}

fn roots_of_file(path: &Path) -> Result<RootCertStore, ConfigError> {
    const SETTING: &str = "--etcd-ca-file";
    let mut store = RootCertStore::empty();
    for certificate in certificates(SETTING, path)? {
        store.add(certificate).map_err(|source| {
            wrong(
                SETTING,
                path,
                "a certificate in it cannot be used: give the CA's certificates as PEM",
            )
            .because(source)
        })?;
    }
    Ok(store)
}

fn roots_of_system(endpoint: &str) -> Result<RootCertStore, ConfigError> {
    let mut store = RootCertStore::empty();
    // Certificates that cannot be parsed are common in system bundles; what counts is that some can.
    let (added, _) = store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        return Err(ConfigError::new(
            "--etcd",
            endpoint,
            "it is https and the system has no CA certificates: give --etcd-ca-file",
        ));
    }
    Ok(store)
}

fn identity(tls: &TlsConfig, roots: &RootCertStore) -> Result<Option<Identity>, ConfigError> {
    const CERT: &str = "--etcd-cert-file";
    const KEY: &str = "--etcd-key-file";
    let (cert, key) = match (&tls.client_cert_file, &tls.client_key_file) {
        (None, None) => return Ok(None),
        (Some(cert), Some(key)) => (cert, key),
        (Some(cert), None) => return Err(wrong(CERT, cert, "it has no key: give --etcd-key-file, too")),
        (None, Some(key)) => {
            return Err(wrong(
                KEY,
                key,
                "it has no certificate: give --etcd-cert-file, too",
            ));
        }
    };
    let chain = certificates(CERT, cert)?;
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|source| {
        wrong(
            KEY,
            key,
            "no private key can be read from it: give the key as PEM, readable for this user",
        )
        .because(source)
    })?;
    // Only to see whether the two belong together.
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_root_certificates(roots.clone())
                .with_client_auth_cert(chain, key_der)
        })
        .map_err(|source| {
            let problem = format!(
                "it cannot be used with the key {}: give the two that belong together",
                key.display()
            );
            wrong(CERT, cert, &problem).because(source)
        })?;
    Ok(Some(Identity::from_pem(read(CERT, cert)?, read(KEY, key)?)))
}

fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| {
            wrong(
                setting,
                path,
                "no certificates can be read from it: give them as PEM, readable for this user",
            )
            .because(source)
        })?;
    if certificates.is_empty() {
        return Err(wrong(
            setting,
            path,
            "it holds no PEM certificate: check that it is the right file",
        ));
    }
    Ok(certificates)
}

fn read(setting: &'static str, path: &PathBuf) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| wrong(setting, path, "it cannot be read").because(source))
}

fn wrong(setting: &'static str, path: &Path, problem: &str) -> ConfigError {
    ConfigError::new(setting, &path.display().to_string(), problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;

    fn config(endpoint: &str, tls: TlsConfig) -> Config {
        let mut config = Config::new(Endpoint::parse_list(endpoint).expect("endpoint"));
        config.tls = tls;
        config
    }

    #[test]
    fn plain_http_needs_no_certificates() {
        assert!(
            client_tls(&config("http://h", TlsConfig::default()))
                .expect("tls")
                .is_none()
        );
    }

    #[test]
    fn wrong_files_are_named_with_their_flag_and_mend() {
        let dir = tempfile::tempdir().expect("dir");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("write");
            Some(path)
        };
        let empty = file("empty.pem", "no certificate");
        let missing = Some(dir.path().join("missing.pem"));
        let [one, other] =
            ["one", "other"].map(|name| rcgen::generate_simple_self_signed([name.to_owned()]).expect("cert"));
        let ca = file("ca.pem", &one.cert.pem());
        let cert = file("cert.pem", &one.cert.pem());
        let wrong_key = file("other-key.pem", &other.signing_key.serialize_pem());
        for (ca_file, client_cert_file, client_key_file, parts) in [
            (
                &empty,
                &None,
                &None,
                ["--etcd-ca-file", "empty.pem", "holds no PEM certificate"],
            ),
            (
                &missing,
                &None,
                &None,
                ["--etcd-ca-file", "missing.pem", "no certificates can be read"],
            ),
            (
                &ca,
                &cert,
                &None,
                ["--etcd-cert-file", "cert.pem", "give --etcd-key-file"],
            ),
            (
                &ca,
                &None,
                &wrong_key,
                ["--etcd-key-file", "other-key.pem", "give --etcd-cert-file"],
            ),
            (
                &ca,
                &cert,
                &missing,
                ["--etcd-key-file", "missing.pem", "no private key"],
            ),
            (
                &ca,
                &cert,
                &empty,
                ["--etcd-key-file", "empty.pem", "no private key"],
            ),
            (
                &ca,
                &cert,
                &wrong_key,
                ["--etcd-cert-file", "other-key.pem", "belong together"],
            ),
        ] {
            let tls = TlsConfig {
                ca_file: ca_file.clone(),
                client_cert_file: client_cert_file.clone(),
                client_key_file: client_key_file.clone(),
            };
            let error = client_tls(&config("https://h", tls))
                .expect_err("wrong")
                .to_string();
            for part in parts {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
    }
}
