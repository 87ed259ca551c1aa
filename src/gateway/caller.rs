//! Who asks: the gateway, by the one credential in its request (Rules 9.1 and 9.12 of docs/policy.md).

use std::sync::Arc;

use http::HeaderValue;
use http::header::GetAll;

use crate::model::Role;
use crate::policy::client_source::ClientSource;
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
    /// Which one counts would be a guess.
    #[error(
        "The request has more than one credential of a gateway: the gateway has to send its own alone."
    )]
    TwoCredentials,
    /// It is no credential, or not any more.
    #[error("The gateway's credential is not valid: it is mistyped or revoked.")]
    Invalid,
    /// It is one of another role.
    #[error("The gateway's credential has another role than pep: create one of that role for it.")]
    WrongRole,
    /// There are no credentials with `--dev`.
    #[error(
        "The gateway's credential is not valid here: this server runs with --dev, so leave it out."
    )]
    Development,
}

/// What a caller presented, to be looked up, and looked up again once this replica may decide.
#[derive(Debug, Clone, Copy)]
pub struct Presented {
    /// `None` where no credentials are needed.
    digest: Option<Digest>,
}

impl Presented {
    /// Reads the credential from the values of its header: bare, or as `Bearer <credential>`. With `development`, there
    /// is to be none.
    ///
    /// # Errors
    /// Where there is none, or more than one.
    pub fn read(values: GetAll<'_, HeaderValue>, development: bool) -> Result<Self, CallerError> {
        let mut values = values.iter().map(HeaderValue::as_bytes);
        let value = match (values.next(), values.next()) {
            (None, _) if development => return Ok(Self { digest: None }),
            (None, _) => return Err(CallerError::Missing),
            (Some(_), _) if development => return Err(CallerError::Development),
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
        Ok(Self { digest: Some(secret::digest(secret)) })
    }

    /// Where the caller's clients are read from, as far as this replica knows now.
    ///
    /// # Errors
    /// Where the credential is not valid or not one of a gateway.
    pub fn client_source(&self, services: &Services) -> Result<Arc<ClientSource>, CallerError> {
        let Some(digest) = &self.digest else {
            return Ok(Arc::new(ClientSource::development()));
        };
        let gateway = services.gateway_principal(digest).ok_or(CallerError::Invalid)?;
        match gateway.principal.role {
            Role::Pep => Ok(gateway.client_source),
            Role::Operator | Role::AccountAdmin(_) => Err(CallerError::WrongRole),
        }
    }
}
