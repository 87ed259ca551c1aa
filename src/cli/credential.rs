//! `portcullis credential`.

use clap::{Args, Subcommand, ValueEnum};

use super::connect::{Session, print_json};
use super::failure::Failure;
use super::output::{
    clean, note, note_more, note_propagation, print, print_line, print_secret, table, when, word,
};
use super::paging::{Limit, pages};
use super::{Common, missing, proto};
use crate::config::client::Format;
use crate::config::server::FirstCredentialArgs;

/// What `credential` takes.
#[derive(Debug, Args)]
pub struct CredentialArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    command: CredentialCommand,
}

#[derive(Debug, Subcommand)]
enum CredentialCommand {
    /// Create a credential, and print its secret, this once
    ///
    /// The secret stands alone on standard output. The first operator credential of a store is made
    /// without a server: when no credential is given and nothing listens at --server on this host,
    /// the store is opened directly. That is refused once the store has any credential.
    ///
    /// Examples:
    ///   portcullis credential create --role pep --name checkout > checkout.credential
    ///   portcullis credential create --role account-admin --account acc_...
    #[command(verbatim_doc_comment)]
    Create {
        /// What its bearer may do
        #[arg(long, value_enum)]
        role: Role,
        /// The account that an account-admin looks after
        #[arg(long, value_name = "ACCOUNT", required_if_eq("role", "account-admin"))]
        account: Option<String>,
        /// A label for people
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
    },
    /// List credentials, the oldest first; never their secrets
    List(Limit),
    /// End a credential, on every replica
    ///
    /// Answers once no replica accepts it any more. Revoking it again changes nothing.
    Revoke {
        /// The credential, such as crd_...
        #[arg(value_name = "CREDENTIAL")]
        credential_id: String,
        /// Answer before it is in effect on every replica
        #[arg(long)]
        no_wait: bool,
    },
    /// Make a new key for the secrets of tokens and credentials from now on
    ///
    /// Secrets made under earlier keys stay valid.
    RotateKey,
}

/// What a credential's bearer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// A service that asks for decisions, and nothing else
    Pep,
    /// Looks after the tokens of one account
    AccountAdmin,
    /// Everything
    Operator,
}

impl From<Role> for proto::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Pep => Self::Pep,
            Role::AccountAdmin => Self::AccountAdmin,
            Role::Operator => Self::Operator,
        }
    }
}

pub(super) async fn run<F>(args: CredentialArgs, first_credential: F) -> Result<(), Failure>
where
    F: AsyncFnOnce(FirstCredentialArgs) -> Result<proto::CreateCredentialResponse, String>,
{
    let format = args.common.output.format;
    let settings = args.common.client.resolve()?;
    let may_be_first = settings.credential.is_none() && settings.loopback;
    let data_dir = settings.data_dir.clone();
    let session = match (Session::connect(settings, format).await, &args.command) {
        (
            Err(Failure::NoServer { refused: true, .. }),
            CredentialCommand::Create { role: Role::Operator, account: None, name },
        ) if may_be_first => {
            note(
                "no server answers and no credential is given: opening the store for its first one",
            );
            let first = FirstCredentialArgs { data_dir, name: name.clone() };
            let answer = first_credential(first).await.map_err(Failure::Store)?;
            return match format {
                Format::Json => print_json(&answer),
                Format::Text => created(answer),
            };
        }
        (session, _) => session?,
    };
    let mut client = session.credentials();
    match args.command {
        CredentialCommand::Create { role, account, name } => {
            let request = proto::CreateCredentialRequest {
                role: proto::Role::from(role).into(),
                account_id: account.unwrap_or_default(),
                name,
            };
            let answer = client.create_credential(request).await.map_err(|s| session.failure(s))?;
            let answer = answer.into_inner();
            if session.print_json(&answer)? { Ok(()) } else { created(answer) }
        }
        CredentialCommand::List(Limit { limit }) => {
            let (credentials, next_page_token) = pages(limit, async |page_size, page_token| {
                let request = proto::ListCredentialsRequest { page_size, page_token };
                let page =
                    client.list_credentials(request).await.map_err(|s| session.failure(s))?;
                let page = page.into_inner();
                Ok((page.credentials, page.next_page_token))
            })
            .await?;
            let answer = proto::ListCredentialsResponse { credentials, next_page_token };
            if session.print_json(&answer)? { Ok(()) } else { list(&answer) }
        }
        CredentialCommand::Revoke { credential_id, no_wait } => {
            let request = proto::RevokeCredentialRequest { credential_id, no_wait };
            let answer = client.revoke_credential(request).await.map_err(|s| session.failure(s))?;
            let answer = answer.into_inner();
            if session.print_json(&answer)? {
                return Ok(());
            }
            let credential = answer.credential.ok_or_else(|| missing("credential"))?;
            note(&format!(
                "revoked {} at {}",
                clean(&credential.credential_id),
                when(credential.revoke_time.as_ref())
            ));
            note_propagation(answer.propagation.as_ref());
            Ok(())
        }
        CredentialCommand::RotateKey => {
            let request = proto::RotateSecretKeyRequest {};
            let answer = client.rotate_secret_key(request).await.map_err(|s| session.failure(s))?;
            let answer = answer.into_inner();
            if session.print_json(&answer)? {
                return Ok(());
            }
            note(
                "secrets are made under a new key from now on; earlier ones stay valid. Its number:",
            );
            print_line(&answer.key_number.to_string())
        }
    }
}

fn created(answer: proto::CreateCredentialResponse) -> Result<(), Failure> {
    let credential = answer.credential.ok_or_else(|| missing("credential"))?;
    note(&format!("created {} ({})", clean(&credential.credential_id), role(&credential)));
    print_secret(&answer.secret)
}

fn role(credential: &proto::Credential) -> String {
    word(credential.role().as_str_name(), "ROLE_")
}

fn list(answer: &proto::ListCredentialsResponse) -> Result<(), Failure> {
    if answer.credentials.is_empty() {
        note("no credentials");
        return Ok(());
    }
    let rows: Vec<_> = answer
        .credentials
        .iter()
        .map(|credential| {
            [
                credential.credential_id.clone(),
                role(credential),
                credential.name.clone(),
                credential.account_id.clone(),
                when(credential.create_time.as_ref()),
                when(credential.revoke_time.as_ref()),
                if credential.from_settings { "settings" } else { "created" }.to_owned(),
            ]
        })
        .collect();
    print(&table(
        ["CREDENTIAL", "ROLE", "NAME", "ACCOUNT", "CREATED", "REVOKED", "ORIGIN"],
        &rows,
    ))?;
    note_more(&answer.next_page_token);
    Ok(())
}
