//! `portcullis token self` and `token revoke-self`: what the bearer of a token asks with its secret.

use clap::Subcommand;
use secrecy::SecretString;

use super::check::read_token;
use super::confirm::{Confirmation, nothing_more};
use super::connect::Session;
use super::failure::Failure;
use super::output::{clean, fields, note, note_propagation, print, when, word};
use super::{Common, missing, proto};
use crate::config::client::{Credential, TokenArgs};

/// The commands for a token's bearer.
#[derive(Debug, Subcommand)]
pub(super) enum OwnCommand {
    /// Show what a token is, with its secret and without a credential
    ///
    /// The secret has no flag, since `ps` shows flags. It is read from PORTCULLIS_TOKEN, a file, or standard
    /// input; on a terminal it is asked for and not shown. This does not count as use.
    #[command(name = "self")]
    Show {
        #[command(flatten)]
        token: TokenArgs,
    },
    /// Delete a token, with its secret and without a credential, on every replica
    ///
    /// For anyone who finds a leaked token. The secret is read as for `token self`. Asks first on a terminal;
    /// elsewhere it needs --yes. Nothing brings the token back.
    RevokeSelf {
        #[command(flatten)]
        token: TokenArgs,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

pub(super) async fn run(common: Common, command: OwnCommand) -> Result<(), Failure> {
    match command {
        OwnCommand::Show { token } => show(common, token).await,
        OwnCommand::RevokeSelf { token, confirmation } => {
            revoke(common, token, &confirmation).await
        }
    }
}

/// Shows what the token is.
async fn show(common: Common, token: TokenArgs) -> Result<(), Failure> {
    let session = open(common, token).await?;
    let answer = session.answer_as_text(session.own().get_self(proto::GetSelfRequest {}).await)?;
    let Some(answer) = answer else { return Ok(()) };
    print(&describe(&answer.token.ok_or_else(|| missing("token"))?))
}

/// Deletes the token.
async fn revoke(
    common: Common,
    token: TokenArgs,
    confirmation: &Confirmation,
) -> Result<(), Failure> {
    let session = open(common, token).await?;
    let question = "Delete the token with this secret? Nothing brings it back.";
    confirmation.ask(question, nothing_more).await?;
    let answer = session.own().revoke_self(proto::RevokeSelfRequest {}).await;
    let answer = session.answer_as_text(answer)?;
    let Some(answer) = answer else { return Ok(()) };
    let token = answer.token.ok_or_else(|| missing("token"))?;
    let time = when(token.delete_time.as_ref());
    note(&format!("{} was deleted at {time}", clean(&token.token_id)));
    note_propagation(answer.propagation.as_ref());
    Ok(())
}

/// A session whose credential is the token's secret.
async fn open(common: Common, token: TokenArgs) -> Result<Session, Failure> {
    let format = common.output.format;
    let mut settings = common.client.resolve()?;
    settings.guard_secret("the token's secret")?;
    let secret: SecretString = read_token(token)?;
    let source = "the input of the token".to_owned();
    settings.credential = Some(Credential { secret, source });
    Session::connect(settings, format).await
}

fn describe(token: &proto::SelfToken) -> String {
    let mut text = fields(&[
        ("token", token.token_id.clone()),
        ("name", token.name.clone()),
        ("kind", word(token.kind().as_str_name(), "TOKEN_KIND_")),
        ("state", word(token.state().as_str_name(), "TOKEN_STATE_")),
        ("scopes", token.granted_scopes.join(", ")),
        ("expires", when(token.expire_time.as_ref())),
    ]);
    for action in &token.pending_actions {
        text.push('\n');
        text += &fields(&[
            ("pending", word(action.r#type().as_str_name(), "PENDING_ACTION_TYPE_")),
            ("at the earliest", when(action.effective_time.as_ref())),
            ("removes", action.scopes_taken.join(", ")),
            ("why", action.why.clone()),
            ("how to keep it", action.how_to_keep.clone()),
        ]);
    }
    text
}
