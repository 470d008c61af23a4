//! The certificates that agents show each other: checked before Consul gets them, or made here.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{InconsistentKeys, RootCertStore};
use thiserror::Error;

use crate::config::TlsFiles;
use crate::secrets::{CaSecret, Secret};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a certificate made here holds. Clocks may be a day apart.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// After how long it is made anew.
pub const RENEW_AFTER: Duration = Duration::from_secs(60 * 24 * 3600);

/// Why Consul is not given its certificates.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file that is not there or holds something else.
    #[error(
        "cannot use {path} for TLS between Consul agents (--tls-ca-file, --tls-cert-file, --tls-key-file): {reason}"
    )]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The certificate would be refused by the other agents.
    #[error(
        "{cert} is not good for {name} with the CA in {ca}: {reason}. Give the CA that signed it, or a certificate that this CA signed for {name}"
    )]
    Refused {
        /// The certificate's file.
        cert: PathBuf,
        /// The CA's file.
        ca: PathBuf,
        /// The name that others will look for.
        name: String,
        /// What a verifier says.
        reason: String,
    },
    /// The key belongs to another certificate.
    #[error("the key in {key} does not belong to the certificate in {cert}")]
    OtherKey {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        cert: PathBuf,
    },
    /// The library cannot do it.
    #[error("cannot make a certificate")]
    Make(#[source] rcgen::Error),
}

/// The name in the certificates of servers (Consul: `verify_server_hostname`).
pub fn server_name(datacenter: &str) -> String {
    format!("server.{datacenter}.consul")
}

/// Whether another agent that trusts the same CA would take the certificate as that of a server of `datacenter`, now.
///
/// Every node must have such a certificate: any of them may become a server.
///
/// # Errors
/// What is wrong, with the file it is wrong in.
pub fn check(files: &TlsFiles, datacenter: &str) -> Result<(), TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&files.cert)?;
    let mut roots = RootCertStore::empty();
    for authority in certificates(&files.ca)? {
        roots
            .add(authority)
            .map_err(|error| unusable(&files.ca, &error.to_string()))?;
    }
    let Some((own, intermediates)) = chain.split_first() else {
        return Err(unusable(&files.cert, "it holds no certificate"));
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| unusable(&files.ca, &error.to_string()))?;
    let name = server_name(datacenter);
    let refused = |reason: String| TlsError::Refused {
        cert: files.cert.clone(),
        ca: files.ca.clone(),
        name: name.clone(),
        reason,
    };
    let subject = ServerName::try_from(name.clone()).map_err(|error| refused(error.to_string()))?;
    verifier
        .verify_server_cert(own, intermediates, &subject, &[], UnixTime::now())
        .map_err(|error| refused(error.to_string()))?;
    key_belongs(files, chain, &provider)
}

fn key_belongs(
    files: &TlsFiles,
    chain: Vec<CertificateDer<'static>>,
    provider: &CryptoProvider,
) -> Result<(), TlsError> {
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unusable(&files.key, &error.to_string()))?;
    match rustls::sign::CertifiedKey::from_der(chain, key, provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(TlsError::OtherKey {
            key: files.key.clone(),
            cert: files.cert.clone(),
        }),
        Err(error) => Err(unusable(&files.key, &error.to_string())),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let found = read().map_err(|error| unusable(path, &error.to_string()))?;
    if found.is_empty() {
        return Err(unusable(path, "it holds no certificate (PEM)"));
    }
    Ok(found)
}

fn unusable(path: &Path, reason: &str) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

/// A new authority for one cluster.
///
/// # Errors
/// When the library cannot make one.
pub fn new_authority() -> Result<CaSecret, TlsError> {
    let key = KeyPair::generate().map_err(TlsError::Make)?;
    let certificate = authority_params().self_signed(&key).map_err(TlsError::Make)?;
    Ok(CaSecret {
        certificate: certificate.pem(),
        key: Secret::new(key.serialize_pem()),
    })
}

/// What the authority's certificate says. Made again from here when it signs, so only its dates may ever change.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "Colossus Consul CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (SystemTime::now() - DAY).into();
    params.not_after = (SystemTime::now() + CA_LIFE).into();
    params
}

/// A certificate of a node, with its key.
#[derive(Debug)]
pub struct Issued {
    /// As PEM.
    pub certificate: String,
    /// As PEM.
    pub key: Secret,
}

/// A certificate for the agent at `address`, good for a server too.
///
/// # Errors
/// When the authority's key cannot be used.
pub fn issue(authority: &CaSecret, datacenter: &str, address: IpAddr) -> Result<Issued, TlsError> {
    let signer = KeyPair::from_pem(authority.key.expose()).map_err(TlsError::Make)?;
    let issuer = Issuer::new(authority_params(), signer);
    let names = vec![
        server_name(datacenter),
        "localhost".to_owned(),
        address.to_string(),
        "127.0.0.1".to_owned(),
    ];
    let mut params = CertificateParams::new(names).map_err(TlsError::Make)?;
    params
        .distinguished_name
        .push(DnType::CommonName, server_name(datacenter));
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.not_before = (SystemTime::now() - DAY).into();
    params.not_after = (SystemTime::now() + CERTIFICATE_LIFE).into();
    let key = KeyPair::generate().map_err(TlsError::Make)?;
    let certificate = params.signed_by(&key, &issuer).map_err(TlsError::Make)?;
    Ok(Issued {
        certificate: certificate.pem(),
        key: Secret::new(key.serialize_pem()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(directory: &Path, authority: &CaSecret, issued: &Issued) -> TlsFiles {
        let files = TlsFiles {
            ca: directory.join("ca.pem"),
            cert: directory.join("cert.pem"),
            key: directory.join("key.pem"),
        };
        std::fs::write(&files.ca, &authority.certificate).expect("written");
        std::fs::write(&files.cert, &issued.certificate).expect("written");
        std::fs::write(&files.key, issued.key.expose()).expect("written");
        files
    }

    fn issued(authority: &CaSecret) -> Issued {
        issue(authority, "dc1", "10.0.0.1".parse().expect("an address")).expect("issued")
    }

    #[test]
    fn what_is_made_here_is_good() {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = new_authority().expect("made");
        let files = written(directory.path(), &authority, &issued(&authority));
        check(&files, "dc1").expect("good");
        let other = check(&files, "dc2").expect_err("another data centre").to_string();
        assert!(other.contains("server.dc2.consul"), "{other}");
    }

    #[test]
    fn a_wrong_ca_is_named_with_its_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = new_authority().expect("made");
        let files = written(
            directory.path(),
            &new_authority().expect("made"),
            &issued(&authority),
        );
        let error = check(&files, "dc1").expect_err("signed by another").to_string();
        assert!(
            error.contains("ca.pem") && error.contains("Give the CA that signed it"),
            "{error}"
        );
    }

    #[test]
    fn a_key_of_another_certificate_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = new_authority().expect("made");
        let mut node = issued(&authority);
        node.key = issued(&authority).key;
        let files = written(directory.path(), &authority, &node);
        let error = check(&files, "dc1").expect_err("another key");
        assert!(matches!(error, TlsError::OtherKey { .. }), "{error}");
    }

    #[test]
    fn files_that_hold_something_else_are_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = new_authority().expect("made");
        let files = written(directory.path(), &authority, &issued(&authority));
        for (file, content) in [(&files.ca, "nonsense"), (&files.cert, ""), (&files.key, "")] {
            let good = std::fs::read(file).expect("readable");
            std::fs::write(file, content).expect("written");
            let error = check(&files, "dc1").expect_err("not usable").to_string();
            assert!(error.contains(&file.display().to_string()), "{error}");
            std::fs::write(file, good).expect("written");
        }
    }
}
