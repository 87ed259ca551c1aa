//! Debug prints of the messages that carry a secret (docs/policy.md, rule 7.8). The generated ones
//! would show it; build.rs leaves them out for these, and what holds one of these prints it
//! through here.

use std::fmt::{Debug, Formatter, Result};

use super::proto::{
    AuthorizeRequest, CreateCredentialResponse, CreateTokenResponse, CreateWebhookResponse,
    ReportLeakedTokensRequest, RotateWebhookSecretResponse,
};

/// What stands in place of a secret.
const REDACTED: &str = "redacted";

impl Debug for AuthorizeRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AuthorizeRequest")
            .field("token", &REDACTED)
            .field("client_ip", &self.client_ip)
            .field("dry_run", &self.dry_run)
            .field("operation", &self.operation)
            .field("at_least_as_fresh", &self.at_least_as_fresh)
            .finish()
    }
}

impl Debug for CreateTokenResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("CreateTokenResponse")
            .field("token", &self.token)
            .field("secret", &REDACTED)
            .finish()
    }
}

impl Debug for CreateCredentialResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("CreateCredentialResponse")
            .field("credential", &self.credential)
            .field("secret", &REDACTED)
            .finish()
    }
}

impl Debug for CreateWebhookResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("CreateWebhookResponse")
            .field("webhook", &self.webhook)
            .field("secret", &REDACTED)
            .finish()
    }
}

impl Debug for RotateWebhookSecretResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("RotateWebhookSecretResponse")
            .field("webhook", &self.webhook)
            .field("secret", &REDACTED)
            .finish()
    }
}

impl Debug for ReportLeakedTokensRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        // The address may have a secret in it too.
        f.debug_struct("ReportLeakedTokensRequest")
            .field("secrets", &REDACTED)
            .field("secret_sha256s", &self.secret_sha256s.len())
            .finish_non_exhaustive()
    }
}
