//! Who is signed in to the management page, and with what.
//!
//! Must stay true: a session is asked of the store each time, so one that ended, or whose credential is
//! revoked, opens nothing on any replica; its secret is kept nowhere but in the browser; a session without a
//! credential opens nothing but a server with `--dev`.
//!
//! Rules: docs/policy.md, section 8.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

use super::credentials::random;
use super::{Caller, Error, Result, Services};
use crate::cache::Principal;
use crate::model::{Actor, Invalidation, NewSession, Role};
use crate::secret::{self, Digest};

/// How long sessions of the management page last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLengths {
    /// Without a request.
    pub idle: Duration,
    /// In all.
    pub lifetime: Duration,
    /// Whether sessions need no credential: `--dev`.
    pub development: bool,
}

impl Default for SessionLengths {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { idle: 30 * minute, lifetime: 8 * 60 * minute, development: false }
    }
}

/// The secret that a browser keeps of its session. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct SessionSecret(SecretString);

/// Bytes of randomness in it.
const RANDOM: usize = 32;

impl SessionSecret {
    /// What a cookie says; `None` where that can be none of ours.
    pub fn read(cookie: &str) -> Option<Self> {
        let ours = cookie.len() == 2 * RANDOM && cookie.bytes().all(|b| b.is_ascii_hexdigit());
        ours.then(|| Self(cookie.to_owned().into()))
    }

    fn make() -> Result<Self> {
        Ok(Self(secret::hex(&random::<RANDOM>()?[..]).into()))
    }

    /// For the cookie, and nothing else.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    fn digest(&self) -> Digest {
        secret::digest(self.expose().as_bytes())
    }

    /// What each of its forms carries, so that no other site can send one: nobody makes it without the
    /// secret, and nobody finds the secret by it.
    fn form_token(&self) -> Digest {
        secret::digest(format!("form {}", self.expose()).as_bytes())
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecret(redacted)")
    }
}

/// What names a form, among all of a session, that may be sent only once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormId([u8; 16]);

impl FormId {
    /// A new one.
    ///
    /// # Errors
    /// [`Error::Internal`] where the system gives no randomness.
    pub fn make() -> Result<Self> {
        Ok(Self(*random()?))
    }

    /// As it is displayed; `None` for anything else.
    pub fn read(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| digits)?;
        Some(Self(number.to_be_bytes()))
    }
}

impl fmt::Display for FormId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&secret::hex(&self.0))
    }
}

/// Somebody who is signed in.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// Who, for everything that they ask for.
    pub caller: Caller,
    /// The label of their credential; may be empty.
    pub name: String,
    secret: SessionSecret,
}

impl SignedIn {
    /// What the forms of this session carry.
    pub fn form_token(&self) -> String {
        secret::hex(&self.secret.form_token())
    }

    /// Whether a form carries that. In constant time.
    pub fn is_form_token(&self, text: &str) -> bool {
        self.form_token().as_bytes().ct_eq(text.as_bytes()).into()
    }
}

impl Services {
    /// Begins a session with a credential; with none where the server runs with `--dev`.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] for a wrong credential, [`Error::Forbidden`] for one of enforcement
    /// points; the store's.
    pub async fn sign_in(
        &self,
        credential: Option<&str>,
        client: Option<IpAddr>,
    ) -> Result<SessionSecret> {
        const WRONG: Error =
            Error::Unauthenticated("the credential is not valid: mistyped, expired, or revoked");
        self.ready().await?;
        let caller = match credential {
            None if self.sessions.development => Caller::development(client),
            None => return Err(WRONG),
            Some(text) => {
                let now = || self.clock.now();
                let bearer = self.cache.credentials.bearer(text.as_bytes(), now).ok_or(WRONG)?;
                Caller::bearer(bearer, client)
            }
        };
        if caller.role == Role::Pep {
            return Err(Error::Forbidden(
                "this is the credential of a service, which may ask for decisions and nothing else: \
                 sign in with one of role account_admin or operator"
                    .to_owned(),
            ));
        }
        let secret = SessionSecret::make()?;
        let now = self.clock.now();
        let new = NewSession {
            digest: secret.digest(),
            credential_id: match caller.actor {
                Actor::Credential(id, _) => Some(id),
                Actor::Bearer(_)
                | Actor::Development
                | Actor::System
                | Actor::SecretScanning
                | Actor::CommandLine => None,
            },
            expires: now.plus(self.sessions.lifetime),
        };
        let ctx = caller.context(now);
        let create = self.store.create_session(&ctx, &new);
        let begun =
            self.writes.commit("create_session", Invalidation::Nothing, &ctx, create).await?;
        // Memory may be behind the store by an instant.
        begun.then_some(secret).ok_or(WRONG)
    }

    /// Who is signed in by `secret`; `None` where the session has ended.
    /// Rules 8.8 and 8.9 of docs/policy.md.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where nothing can be said; the store's.
    pub async fn session(
        &self,
        secret: SessionSecret,
        client: Option<IpAddr>,
    ) -> Result<Option<SignedIn>> {
        self.ready().await?;
        let now = self.clock.now();
        let digest = secret.digest();
        let session = self.store.session(&digest, now, self.sessions.idle);
        let Some(session) = self.read("session", session).await? else { return Ok(None) };
        let (caller, name) = match session.bearer {
            Some((id, role, name)) => (Caller::bearer(Principal { id, role }, client), name),
            None if self.sessions.development => (Caller::development(client), String::new()),
            None => return Ok(None),
        };
        Ok(Some(SignedIn { caller, name, secret }))
    }

    /// Ends a session, or all of its credential.
    ///
    /// # Errors
    /// The store's.
    pub async fn sign_out(&self, signed_in: &SignedIn, everywhere: bool) -> Result<()> {
        let ctx = signed_in.caller.context(self.clock.now());
        let digest = signed_in.secret.digest();
        let end = self.store.end_session(&ctx, &digest, everywhere);
        self.writes.commit("end_session", Invalidation::Nothing, &ctx, end).await?;
        Ok(())
    }

    /// Notes that a form which may be sent only once was sent. `false` where it was before.
    ///
    /// # Errors
    /// The store's.
    pub async fn use_form(&self, signed_in: &SignedIn, form: FormId) -> Result<bool> {
        self.read("use_form", self.store.use_form(&signed_in.secret.digest(), &form.0)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_s_secret_is_its_own() {
        let (a, b) = (SessionSecret::make().unwrap(), SessionSecret::make().unwrap());
        assert_ne!(a.expose(), b.expose());
        assert_ne!(a.digest(), a.form_token());
        assert_eq!(format!("{a:?}"), "SessionSecret(redacted)");
        assert!(SessionSecret::read(a.expose()).is_some());
        for bad in ["", "x", &a.expose()[1..], &format!("{}g", &a.expose()[1..])] {
            assert!(SessionSecret::read(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn forms_have_names() {
        let form = FormId::make().unwrap();
        assert_ne!(form, FormId::make().unwrap());
        assert_eq!(FormId::read(&form.to_string()), Some(form));
        for bad in ["", "0", "000102030405060708090a0b0c0d0e0g", "+0102030405060708090a0b0c0d0e0f0"]
        {
            assert_eq!(FormId::read(bad), None, "{bad}");
        }
    }
}
