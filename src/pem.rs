//! The PEM files of TLS, on either side: certificates and private keys, read with errors that say what a file
//! holds instead and what to do; and the authorities that are trusted.
//!
//! Must stay true: no error quotes what a file holds beyond the labels of its PEM sections.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Key types that certificates and keys may have here: what `ring` offers.
const CURE: &str =
    "make a key on P-256 or P-384, or an RSA key of 2048 to 8192 bits, and a certificate for it";

/// Curves that `ring` does not offer, by their identifiers as DER has them (RFC 5480, RFC 8410).
const OTHER_CURVES: [(&[u8], &str); 4] = [
    (&[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23], "P-521"),
    (&[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x21], "P-224"),
    (&[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a], "secp256k1"),
    (&[0x06, 0x03, 0x2b, 0x65, 0x71], "Ed448"),
];

/// The certificates in the text of a PEM file, at least one.
///
/// # Errors
/// What is wrong with it and the cure, as the rest of a sentence about the file.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, PemError>>()
        .map_err(|_| "has a PEM section that is cut off or damaged".to_owned())?;
    if found.is_empty() {
        return Err(format!("has no PEM certificate: {}", content(pem)));
    }
    for der in &found {
        parse(der).ok_or("has a certificate that is damaged")?;
    }
    Ok(found)
}

/// The certificates of authorities. Like [`certificates`], and refuses those whose signatures can't be checked.
///
/// # Errors
/// As for [`certificates`].
pub fn authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = certificates(pem)?;
    let keys = found.iter().filter_map(parse);
    if let Some(curve) = keys.filter_map(|found| other_curve(found.public_key().raw)).next() {
        return Err(format!(
            "has an authority with a key on the curve {curve}, which this program can't use: {CURE}"
        ));
    }
    Ok(found)
}

/// The authorities that are trusted to say who a peer of TLS is.
#[derive(Clone)]
pub struct TrustStore {
    roots: Arc<RootCertStore>,
    client: Arc<ClientConfig>,
}

/// Why a file's content adds no authorities. Displays as the rest of a sentence about the file.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAuthorities {
    /// Not the certificates of authorities.
    #[error("{0}")]
    Pem(String),
    /// A certificate that can't be an authority.
    #[error("has a certificate that can't be used: {0}")]
    Unusable(#[from] rustls::Error),
}

impl TrustStore {
    /// Those that browsers know, and the certificates of `pem`, where there is any.
    ///
    /// # Errors
    /// There is no usable certificate in `pem`.
    pub fn public_and(pem: Option<&[u8]>) -> Result<Self, InvalidAuthorities> {
        let public = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        Self::new(public, pem)
    }

    /// Those of the certificates of `pem` alone.
    ///
    /// # Errors
    /// There is no usable certificate in `pem`.
    pub fn only(pem: &[u8]) -> Result<Self, InvalidAuthorities> {
        Self::new(RootCertStore::empty(), Some(pem))
    }

    fn new(mut roots: RootCertStore, pem: Option<&[u8]>) -> Result<Self, InvalidAuthorities> {
        if let Some(pem) = pem {
            for certificate in authorities(pem).map_err(InvalidAuthorities::Pem)? {
                roots.add(certificate)?;
            }
        }
        let roots = Arc::new(roots);
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        Ok(Self { roots, client: Arc::new(client) })
    }

    /// The authorities themselves.
    pub fn roots(&self) -> Arc<RootCertStore> {
        self.roots.clone()
    }

    /// How a client connects that trusts them and shows no certificate of its own. Always the same one, so
    /// that its connections can resume each other's sessions.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }
}

impl fmt::Debug for TrustStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustStore({} authorities)", self.roots.len())
    }
}

/// The first private key in the text of a PEM file.
///
/// # Errors
/// What is wrong with it and the cure, as the rest of a sentence about the file.
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let is_encrypted = labels(pem).any(|label| label == "ENCRYPTED PRIVATE KEY")
        || String::from_utf8_lossy(pem).contains("Proc-Type: 4,ENCRYPTED");
    if is_encrypted {
        return Err(
            "has a private key that is encrypted, and there is no passphrase for it: decrypt it with \
             `openssl pkey -in FILE -out NEW-FILE`, and let only the server's user read that"
                .to_owned(),
        );
    }
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        PemError::NoItemsFound => format!("has no PEM private key: {}", content(pem)),
        _ => "has a PEM section that is cut off or damaged".to_owned(),
    })?;
    if ring::sign::any_supported_type(&key).is_ok() {
        return Ok(key);
    }
    Err(match other_curve(key.secret_der()) {
        Some(curve) => {
            format!("has a key on the curve {curve}, which this program can't use: {CURE}")
        }
        None => {
            format!("has a private key that is damaged or of a kind that can't be used: {CURE}")
        }
    })
}

/// Whether `key` is that of the first certificate of `chain`.
pub fn belongs(chain: &[CertificateDer<'static>], key: &PrivateKeyDer<'static>) -> bool {
    let provider = ring::default_provider();
    CertifiedKey::from_der(chain.to_vec(), key.clone_key(), &provider).is_ok()
}

/// From when until when a certificate is valid, both inclusive, in seconds since 1970 (RFC 5280, section 4.1.2.5);
/// and whose it is. `None` for what is no certificate.
pub fn validity(der: &CertificateDer<'_>) -> Option<(i64, i64, String)> {
    let certificate = parse(der)?;
    let validity = certificate.validity();
    let subject = certificate.subject().to_string();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp(), subject))
}

fn parse<'d>(der: &'d CertificateDer<'_>) -> Option<X509Certificate<'d>> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}

/// A curve that can't be used, if `der` names one. Its name is looked for anywhere: this is only for a message,
/// about a key that was refused already.
fn other_curve(der: &[u8]) -> Option<&'static str> {
    let names = |id: &[u8]| der.windows(id.len()).any(|window| window == id);
    OTHER_CURVES.iter().find(|(id, _)| names(id)).map(|(_, name)| *name)
}

/// The labels of the sections in `pem`, such as `PRIVATE KEY`.
fn labels(pem: &[u8]) -> impl Iterator<Item = &str> {
    let lines = pem.split(|&byte| byte == b'\n').filter_map(|line| str::from_utf8(line).ok());
    lines.filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
}

/// What a file holds in which something else was looked for, and what to do.
fn content(pem: &[u8]) -> String {
    if pem.trim_ascii().is_empty() {
        return "it is empty".to_owned();
    }
    let is_plain = |label: &str| {
        label.len() <= 40 && label.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
    };
    if let Some(label) = labels(pem).find(|label| is_plain(label)) {
        return format!("it holds a section {label} instead");
    }
    // An ASN.1 sequence of more than 255 bytes, which every certificate and nearly every key is.
    if pem.starts_with(&[0x30, 0x82]) {
        return "it seems to be DER: convert it with `openssl x509 -inform der` for a certificate, \
                `openssl pkey -inform der` for a key"
            .to_owned();
    }
    "it has no line such as -----BEGIN CERTIFICATE-----".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    /// `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521`, in PKCS#8 and as SEC 1.
    const P521: [&str; 2] = [
        include_str!("../tests/data/tls/p521.key"),
        include_str!("../tests/data/tls/p521-sec1.key"),
    ];
    const P521_AUTHORITY: &str = include_str!("../tests/data/tls/p521.crt");

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn good_files_are_read_also_both_in_one() {
        let (cert, key) = pair();
        let both = format!("{key}\n{cert}{cert}");
        for pem in [&cert, &both] {
            assert!(!certificates(pem.as_bytes()).unwrap().is_empty());
        }
        let chain = certificates(both.as_bytes()).unwrap();
        let private = private_key(both.as_bytes()).unwrap();
        assert_eq!(chain.len(), 2);
        assert!(belongs(&chain, &private));
        assert!(!belongs(&certificates(pair().0.as_bytes()).unwrap(), &private));
        let (from, until, _) = validity(&chain[0]).unwrap();
        assert!(from < until);
    }

    #[test]
    fn each_wrong_file_is_named_for_what_it_is() {
        let (cert, key) = pair();
        let der = certificates(cert.as_bytes()).unwrap()[0].to_vec();
        let half = &cert[..cert.len() / 2];
        let encrypted =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES\n\nAAAA\n\
                   -----END RSA PRIVATE KEY-----\n";
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (pem, part) in [
            (b"".as_slice(), "it is empty"),
            (b" \n", "it is empty"),
            (key.as_bytes(), "it holds a section PRIVATE KEY"),
            (encrypted.as_bytes(), "it holds a section ENCRYPTED PRIVATE KEY"),
            (&der, "it seems to be DER"),
            (b"hello", "no line such as -----BEGIN CERTIFICATE"),
            (half.as_bytes(), "cut off or damaged"),
            (junk.as_bytes(), "is damaged"),
        ] {
            let error = certificates(pem).unwrap_err();
            assert!(error.contains(part), "{part}: {error}");
        }
        for (pem, part) in [
            (b"".as_slice(), "it is empty"),
            (cert.as_bytes(), "it holds a section CERTIFICATE"),
            (encrypted.as_bytes(), "is encrypted"),
            (old.as_bytes(), "is encrypted"),
            (P521[0].as_bytes(), "on the curve P-521"),
            (P521[1].as_bytes(), "on the curve P-521"),
            (&key.as_bytes()[..key.len() / 2], "cut off or damaged"),
        ] {
            let error = private_key(pem).unwrap_err();
            assert!(error.contains(part), "{part}: {error}");
        }
        let error = authorities(P521_AUTHORITY.as_bytes()).unwrap_err();
        assert!(error.contains("curve P-521") && error.contains("P-256"), "{error}");
    }

    #[test]
    fn authorities_must_be_certificates() {
        let public = TrustStore::public_and(None).unwrap();
        let (authority, _) = pair();
        let more = TrustStore::public_and(Some(authority.as_bytes())).unwrap();
        assert_eq!(more.roots().len(), public.roots().len() + 1);
        assert_eq!(TrustStore::only(authority.as_bytes()).unwrap().roots().len(), 1);
        for pem in [
            &b""[..],
            b"nonsense",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            assert!(TrustStore::public_and(Some(pem)).is_err() && TrustStore::only(pem).is_err());
        }
    }
}
