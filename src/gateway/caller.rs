//! Who asks: the gateway, by the one credential in its request or by its client certificate (Rules 9.1, 9.12, 9.20 and
//! 9.21 of docs/policy.md).

use std::sync::Arc;

use http::HeaderValue;
use http::header::GetAll;

use crate::model::Role;
use crate::policy::client_certificate::Fingerprint;
use crate::policy::client_source::ClientSource;
use crate::policy::id::CredentialId;
use crate::secret::{self, Digest};
use crate::service::Services;

/// The longest credential that there can be: one of the settings.
const MAX_CREDENTIAL: usize = 1_024;

/// Why a caller is answered nothing. Displays with the cure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallerError {
    /// There is none.
    #[error("The gateway presents no credential: its configuration has to send one of role pep.")]
    Missing,
    /// There is none, and the certificate of its connection stands for none.
    #[error(
        "The gateway presents no credential, and no valid credential is bound to its client certificate: \
         create one with --client-certificate for it."
    )]
    UnboundCertificate,
    /// Which one counts would be a guess.
    #[error(
        "The request has more than one credential of a gateway: the gateway has to send its own alone."
    )]
    TwoCredentials,
    /// It is no credential, or not any more.
    #[error("The gateway's credential is not valid: it is mistyped, expired or revoked.")]
    Invalid,
    /// It is one of another role.
    #[error("The gateway's credential has another role than pep: create one of that role for it.")]
    WrongRole,
}

/// A gateway that was identified.
#[derive(Debug, Clone)]
pub struct Identified {
    /// Where its clients are read from.
    pub source: Arc<ClientSource>,
    /// Its credential; `None` where none is needed.
    pub credential: Option<CredentialId>,
}

/// What a caller presented, to be looked up, and looked up again once this replica may decide.
#[derive(Debug, Clone, Copy)]
pub struct Presented {
    /// Of the credential in a header.
    digest: Option<Digest>,
    /// The client certificate of the connection. Where both are `None`, no credentials are needed.
    certificate: Option<Fingerprint>,
}

impl Presented {
    /// Reads the credential from the values of its header, bare or as `Bearer <credential>`, beside the client
    /// certificate of the connection. With `development`, there may be none.
    ///
    /// # Errors
    /// Where there is none, or more than one.
    pub fn read(
        values: GetAll<'_, HeaderValue>,
        certificate: Option<Fingerprint>,
        development: bool,
    ) -> Result<Self, CallerError> {
        let mut values = values.iter().map(HeaderValue::as_bytes);
        let value = match (values.next(), values.next()) {
            (None, _) if development => return Ok(Self { digest: None, certificate: None }),
            (None, _) if certificate.is_some() => return Ok(Self { digest: None, certificate }),
            (None, _) => return Err(CallerError::Missing),
            (Some(_), Some(_)) => return Err(CallerError::TwoCredentials),
            (Some(value), None) => value.trim_ascii(),
        };
        let secret = match value.split_at_checked(7) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => rest.trim_ascii(),
            _ => value,
        };
        // Proxies join the values of headers that are there several times; no credential has a comma and a space.
        if secret.windows(2).any(|pair| pair[0] == b',' && pair[1].is_ascii_whitespace()) {
            return Err(CallerError::TwoCredentials);
        }
        if secret.is_empty() || secret.len() > MAX_CREDENTIAL {
            return Err(CallerError::Invalid);
        }
        Ok(Self { digest: Some(secret::digest(secret)), certificate })
    }

    /// Who the caller is, as far as this replica knows now.
    ///
    /// # Errors
    /// Where the credential is not valid or not one of a gateway.
    pub fn gateway(&self, services: &Services) -> Result<Identified, CallerError> {
        let bound = |certificate| services.gateway_principal_by_certificate(certificate);
        let gateway = match (&self.digest, &self.certificate) {
            (None, None) => {
                let source = Arc::new(ClientSource::development());
                return Ok(Identified { source, credential: None });
            }
            (None, Some(certificate)) => {
                bound(certificate).ok_or(CallerError::UnboundCertificate)?
            }
            (Some(digest), certificate) => {
                let gateway = services.gateway_principal(digest).ok_or(CallerError::Invalid)?;
                let bound = certificate.as_ref().and_then(bound);
                if bound.is_some_and(|bound| bound.principal.id != gateway.principal.id) {
                    return Err(CallerError::TwoCredentials);
                }
                gateway
            }
        };
        match gateway.principal.role {
            Role::Pep => Ok(Identified {
                source: gateway.client_source,
                credential: Some(gateway.principal.id),
            }),
            Role::Operator | Role::AccountAdmin(_) => Err(CallerError::WrongRole),
        }
    }
}
