//! What stands around every page: the head, where one is, who is signed in, and how to do the same without
//! a browser.

use super::assets::{ASSETS, Assets};
use crate::model::Role;
use crate::service::access::Audience;

/// Which part of the page one is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Tokens,
    Pending,
    Accounts,
    Status,
    Mails,
    None,
}

/// Who is signed in, as the head shows it.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) name: String,
    pub(super) role: &'static str,
    /// What they may call.
    pub(super) may: Role,
    pub(super) operator: bool,
    /// Whether there are pages about mails.
    pub(super) mails: bool,
    pub(super) development: bool,
    pub(super) form_token: String,
}

/// The gRPC call that each command makes, by how the command begins; the first that fits counts.
const CALLS: [(&str, &str); 26] = [
    ("portcullis token list", "TokenService/ListTokens"),
    ("portcullis token show", "TokenService/GetToken"),
    ("portcullis token usage", "TokenService/GetTokenUsage"),
    ("portcullis token create", "TokenService/CreateToken"),
    ("portcullis token delete", "TokenService/DeleteToken"),
    ("portcullis token replace", "TokenService/ReplaceToken"),
    ("portcullis token expire", "TokenService/SetTokenExpiry"),
    ("portcullis token update", "TokenService/UpdateToken"),
    ("portcullis whitelist", "TokenService/ManageWhitelist"),
    ("portcullis pending --preview", "TokenService/PreviewLifecycle"),
    ("portcullis pending", "TokenService/ListPendingActions"),
    ("portcullis denials", "TokenService/ListDenials"),
    ("portcullis audit", "TokenService/ListAuditEvents"),
    ("portcullis account list", "AccountService/ListAccounts"),
    ("portcullis account show", "AccountService/GetAccount"),
    ("portcullis account create", "AccountService/CreateAccount"),
    ("portcullis account set-admins", "AccountService/SetAccountAdmins"),
    ("portcullis account update", "AccountService/UpdateAccount"),
    ("portcullis account suspend", "AccountService/SuspendAccount"),
    ("portcullis account resume", "AccountService/ResumeAccount"),
    ("portcullis account close", "AccountService/CloseAccount"),
    ("portcullis credential create", "CredentialService/CreateCredential"),
    ("portcullis credential list", "CredentialService/ListCredentials"),
    ("portcullis credential revoke", "CredentialService/RevokeCredential"),
    ("portcullis catalog show", "CatalogService/GetCatalog"),
    ("portcullis check", "AuthorizationService/Authorize"),
];

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) title: String,
    pub(super) assets: &'static Assets,
    pub(super) who: Option<Who>,
    pub(super) place: Place,
    /// What was just done.
    pub(super) done: &'static str,
    /// Commands that do the same; shown are those that the reader may call.
    pub(super) how: Vec<String>,
    /// Whether the script has anything to do.
    pub(super) scripted: bool,
}

impl Frame {
    /// For users that are not signed in.
    pub(super) fn bare(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            assets: &ASSETS,
            who: None,
            place: Place::None,
            done: "",
            how: Vec::new(),
            scripted: false,
        }
    }

    /// The form token of the signed-in user; empty without one.
    pub(super) fn form_token(&self) -> &str {
        self.who.as_ref().map_or("", |who| &who.form_token)
    }

    /// The gRPC call that a command makes; empty where it makes none.
    pub(super) fn call(&self, command: &str) -> &'static str {
        let found = CALLS.iter().find(|(begins, _)| command.starts_with(begins));
        found.map_or("", |(_, call)| call)
    }

    /// Whether the role of the person who is signed in may make the call of a command (docs/policy.md, rule
    /// 8.2). Nobody's may; a command that makes no call is for everybody.
    pub(super) fn may_call(&self, command: &str) -> bool {
        let call = self.call(command);
        let audience = Audience::of(&format!("/portcullis.v1.{call}"));
        call.is_empty() || self.who.as_ref().is_some_and(|who| audience.includes(who.may))
    }

    /// The commands that are shown.
    pub(super) fn commands(&self) -> Vec<&str> {
        self.how.iter().map(String::as_str).filter(|command| self.may_call(command)).collect()
    }

    pub(super) fn is_at(&self, place: Place) -> bool {
        self.place == place
    }
}
