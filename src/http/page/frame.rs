//! What stands around every page: the head, where one is, who is signed in, and how to do the same without
//! a browser.

use super::assets::Assets;

/// Which part of the page one is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Tokens,
    Pending,
    Accounts,
    Status,
    None,
}

/// Who is signed in, as the head shows it.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) name: String,
    pub(super) role: &'static str,
    pub(super) operator: bool,
    pub(super) development: bool,
    pub(super) form_token: String,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) title: String,
    pub(super) assets: Assets,
    pub(super) who: Option<Who>,
    pub(super) place: Place,
    /// What was just done.
    pub(super) done: &'static str,
    /// Commands that do the same.
    pub(super) how: Vec<String>,
    /// Whether the script has anything to do.
    pub(super) scripted: bool,
}

impl Frame {
    /// For whoever is not signed in.
    pub(super) fn bare(title: impl Into<String>, assets: &Assets) -> Self {
        Self {
            title: title.into(),
            assets: assets.clone(),
            who: None,
            place: Place::None,
            done: "",
            how: Vec::new(),
            scripted: false,
        }
    }

    /// The form token of whoever is signed in; empty for nobody.
    pub(super) fn form_token(&self) -> &str {
        self.who.as_ref().map_or("", |who| &who.form_token)
    }

    pub(super) fn is_at(&self, place: Place) -> bool {
        self.place == place
    }
}
