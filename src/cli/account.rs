//! `portcullis account`.

use clap::{Args, Subcommand};

use super::connect::Session;
use super::failure::Failure;
use super::output::{fields, note, note_propagation, print, print_line, table, when, word};
use super::paging::{Limit, pages};
use super::{Common, missing, proto};

/// What `account` takes.
#[derive(Debug, Args)]
pub struct AccountArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    command: AccountCommand,
}

#[derive(Debug, Subcommand)]
enum AccountCommand {
    /// Create an account, and print its id
    ///
    /// Example:
    ///   portcullis account create --name "Acme Ltd" --admin ann@acme.example --admin bo@acme.example
    #[command(verbatim_doc_comment)]
    Create {
        /// A label for people; need not be unique
        #[arg(long)]
        name: String,
        /// Mail address of an admin, who is notified before anything is removed; repeat it for more
        #[arg(long = "admin", value_name = "EMAIL", required = true)]
        admins: Vec<String>,
    },
    /// Show one account
    Show {
        /// The account, such as acc_...
        #[arg(value_name = "ACCOUNT")]
        account_id: String,
    },
    /// List accounts, the oldest first
    List(Limit),
    /// Replace all admins of an account
    ///
    /// The admins before and after are mailed. Example:
    ///   portcullis account set-admins acc_... --admin ann@acme.example --admin cy@acme.example
    #[command(verbatim_doc_comment)]
    SetAdmins {
        /// The account, such as acc_...
        #[arg(value_name = "ACCOUNT")]
        account_id: String,
        /// Mail address of an admin from now on; repeat it for more
        #[arg(long = "admin", value_name = "EMAIL", required = true)]
        admins: Vec<String>,
    },
    /// Change an account's name
    Update {
        /// The account, such as acc_...
        #[arg(value_name = "ACCOUNT")]
        account_id: String,
        /// The new name, for people; need not be unique
        #[arg(long)]
        name: String,
    },
    /// Deny every token of an account until it is resumed
    ///
    /// Answers once every replica does so. Denied requests do not count as use: unused tokens are announced, downgraded
    /// and deleted as before.
    Suspend {
        /// The account, such as acc_...
        #[arg(value_name = "ACCOUNT")]
        account_id: String,
        /// Answer before it is in effect on every replica
        #[arg(long)]
        no_wait: bool,
    },
    /// End the suspension of an account
    Resume {
        /// The account, such as acc_...
        #[arg(value_name = "ACCOUNT")]
        account_id: String,
    },
    /// Close an account for good: delete its tokens, and revoke its admins' credentials
    ///
    /// Nothing reverses it. Without --confirm-name, it only shows what would be deleted. Example:
    ///   portcullis account close acc_... --confirm-name "Acme Ltd"
    #[command(verbatim_doc_comment)]
    Close {
        /// The account, such as acc_...
        #[arg(value_name = "ACCOUNT")]
        account_id: String,
        /// The account's name, to confirm that this account is meant
        #[arg(long, value_name = "NAME")]
        confirm_name: Option<String>,
        /// Answer before it is in effect on every replica
        #[arg(long)]
        no_wait: bool,
    },
}

pub(super) async fn run(args: AccountArgs) -> Result<(), Failure> {
    let session = Session::open(args.common).await?;
    let mut client = session.accounts();
    match args.command {
        AccountCommand::Create { name, admins } => {
            let request = proto::CreateAccountRequest { name, admin_emails: admins };
            let answer = session.answer_as_text(client.create_account(request).await)?;
            let Some(answer) = answer else { return Ok(()) };
            let account = answer.account.ok_or_else(|| missing("account"))?;
            note("created the account");
            print_line(&super::output::clean(&account.account_id))
        }
        AccountCommand::Show { account_id } => {
            let request = proto::GetAccountRequest { account_id };
            let answer = session.answer_as_text(client.get_account(request).await)?;
            let Some(answer) = answer else { return Ok(()) };
            show(answer.account)
        }
        AccountCommand::SetAdmins { account_id, admins } => {
            let request = proto::SetAccountAdminsRequest { account_id, admin_emails: admins };
            let answer = session.answer_as_text(client.set_account_admins(request).await)?;
            let Some(answer) = answer else { return Ok(()) };
            show(answer.account)
        }
        AccountCommand::Update { account_id, name } => {
            let request = proto::UpdateAccountRequest { account_id, name };
            let answer = session.answer_as_text(client.update_account(request).await)?;
            let Some(answer) = answer else { return Ok(()) };
            show(answer.account)
        }
        AccountCommand::Suspend { account_id, no_wait } => {
            let request = proto::SuspendAccountRequest { account_id, no_wait };
            let answer = session.answer_as_text(client.suspend_account(request).await)?;
            let Some(answer) = answer else { return Ok(()) };
            note("suspended the account: its tokens are denied");
            note_propagation(answer.propagation.as_ref());
            show(answer.account)
        }
        AccountCommand::Resume { account_id } => {
            let request = proto::ResumeAccountRequest { account_id };
            let answer = session.answer_as_text(client.resume_account(request).await)?;
            let Some(answer) = answer else { return Ok(()) };
            note("resumed the account");
            show(answer.account)
        }
        AccountCommand::Close { account_id, confirm_name, no_wait } => {
            let validate_only = confirm_name.is_none();
            let confirm_name = confirm_name.unwrap_or_default();
            let request =
                proto::CloseAccountRequest { account_id, confirm_name, validate_only, no_wait };
            let answer = session.answer_as_text(client.close_account(request).await)?;
            let Some(answer) = answer else { return Ok(()) };
            let tokens = counted(answer.token_count);
            if validate_only {
                note(&format!(
                    "nothing was changed: this would delete {tokens}; to close the account, add --confirm-name NAME"
                ));
            } else {
                note(&format!("closed the account: {tokens} deleted, or about to be"));
                note_propagation(answer.propagation.as_ref());
            }
            show(answer.account)
        }
        AccountCommand::List(Limit { limit }) => {
            let (accounts, next_page_token) = pages(limit, async |page_size, page_token| {
                let request = proto::ListAccountsRequest { page_size, page_token };
                let page = client.list_accounts(request).await.map_err(|s| session.failure(s))?;
                let page = page.into_inner();
                Ok((page.accounts, page.next_page_token))
            })
            .await?;
            let answer = proto::ListAccountsResponse { accounts, next_page_token };
            if session.print_json(&answer)? {
                return Ok(());
            }
            list(&answer)
        }
    }
}

fn show(account: Option<proto::Account>) -> Result<(), Failure> {
    let account = account.ok_or_else(|| missing("account"))?;
    print(&fields(&[
        ("account", account.account_id.clone()),
        ("name", account.name.clone()),
        ("state", state(&account)),
        ("admins", account.admin_emails.join(", ")),
        ("created", when(account.create_time.as_ref())),
    ]))
}

/// Its state, with since when where it is not active.
fn state(account: &proto::Account) -> String {
    let name = word(account.state().as_str_name(), "ACCOUNT_STATE_");
    match account.state() {
        proto::AccountState::Suspended => {
            format!("{name} since {}", when(account.suspend_time.as_ref()))
        }
        proto::AccountState::Closed => format!("{name} at {}", when(account.close_time.as_ref())),
        proto::AccountState::Active | proto::AccountState::Unspecified => name,
    }
}

fn counted(tokens: i64) -> String {
    format!("{tokens} {}", if tokens == 1 { "token" } else { "tokens" })
}

fn list(answer: &proto::ListAccountsResponse) -> Result<(), Failure> {
    if answer.accounts.is_empty() {
        note("no accounts");
        return Ok(());
    }
    let rows: Vec<_> = answer
        .accounts
        .iter()
        .map(|account| {
            [
                account.account_id.clone(),
                account.name.clone(),
                word(account.state().as_str_name(), "ACCOUNT_STATE_"),
                when(account.create_time.as_ref()),
                account.admin_emails.join(", "),
            ]
        })
        .collect();
    print(&table(["ACCOUNT", "NAME", "STATE", "CREATED", "ADMINS"], &rows))?;
    super::output::note_more(&answer.next_page_token);
    Ok(())
}
