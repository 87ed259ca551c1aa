//! `portcullis token`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::confirm::Confirmation;
use super::connect::Session;
use super::failure::Failure;
use super::import::{self, ImportArgs};
use super::leaks::{self, ReportLeakedArgs};
use super::output::{
    clean, fields, note, note_more, note_propagation, parse_time, print, print_secret, table, when,
    word,
};
use super::own_token::{self, OwnCommand};
use super::paging::{Limit, pages};
use super::pending::notices;
use super::{Common, missing, proto};
use crate::policy::duration;

/// What `token` takes.
#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    #[command(flatten)]
    Managed(ManagedCommand),
    #[command(flatten)]
    Own(OwnCommand),
}

#[derive(Debug, Subcommand)]
enum ManagedCommand {
    /// Create a token, and print its secret, this once
    ///
    /// The secret stands alone on standard output, everything else on standard error; with
    /// --output json the whole answer stands on standard output.
    ///
    /// Examples:
    ///   portcullis token create --account acc_... --name reports --kind read-only
    ///   portcullis token create --account acc_... --name sync --kind read-write \
    ///       --whitelist 192.0.2.7 --whitelist 2001:db8::/48
    ///   SECRET=$(portcullis token create --account acc_... --name pay --kind custom \
    ///       --scope transactions.request)
    #[command(verbatim_doc_comment)]
    Create(CreateArgs),
    /// Import tokens that were issued elsewhere, by the digests of their secrets
    ///
    /// FILE has a JSON object on each line; - is standard input. Refused lines are reported by their number, and
    /// the others are imported. To continue after an interruption, run the same command again: nothing is
    /// imported twice.
    ///
    /// {"name": "reports", "kind": "read-only", "secret_sha256": "5e88..."}
    /// {"name": "sync", "kind": "read-write", "whitelist": ["192.0.2.7"], "secret_sha256": "sha256:03ac...",
    ///  "create_time": "2024-02-01T00:00:00Z", "last_use_time": "2026-01-31T12:00:00Z"}
    ///
    /// Write each object on one line. `scopes` is for the kind custom, `expire_time` for any.
    #[command(verbatim_doc_comment)]
    Import(ImportArgs),
    /// Show one token: what it may do, from where, when it was used, what is planned for it
    Show {
        /// The token's id, such as tok_...
        #[arg(value_name = "TOKEN")]
        token_id: String,
    },
    /// List tokens, the oldest first
    List {
        /// Only those of this account
        #[arg(long, value_name = "ACCOUNT")]
        account: Option<String>,
        /// Also those that were deleted and not yet purged
        #[arg(long)]
        deleted: bool,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show how often a token was used, by day and scope
    Usage {
        /// The token's id, such as tok_...
        #[arg(value_name = "TOKEN")]
        token_id: String,
    },
    /// Delete a token, on every replica
    ///
    /// Asks first on a terminal; elsewhere it needs --yes. Answers once no replica allows it any more.
    /// Nothing brings a deleted token back; deleting it again changes nothing.
    Delete {
        /// The token's id, such as tok_...
        #[arg(value_name = "TOKEN")]
        token_id: String,
        #[command(flatten)]
        confirmation: Confirmation,
        /// Answer before it is in effect on every replica
        #[arg(long)]
        no_wait: bool,
    },
    /// Replace a token by a new one, and print the new secret, this once
    ///
    /// The new token has the same name, whitelist and permissions as the old one, and keeps its times of last
    /// use and its pending actions. The old one expires after the overlap; `token show` says when it was last
    /// used, so that you see when nobody needs it any more. --dry-run shows which scopes it has used, for
    /// --scope, and changes nothing.
    ///
    /// Examples:
    ///   portcullis token replace tok_... --dry-run
    ///   SECRET=$(portcullis token replace tok_... --overlap 7d)
    ///   portcullis token replace tok_... --scope transactions.read --overlap 0s
    #[command(verbatim_doc_comment)]
    Replace(ReplaceArgs),
    /// Change a token's name or labels, which no decision depends on
    ///
    /// Examples:
    ///   portcullis token update tok_... --name reports-2
    ///   portcullis token update tok_... --label team=payments --label env=prod
    #[command(verbatim_doc_comment)]
    Update(UpdateArgs),
    /// Bring the end of a token nearer
    ///
    /// Asks first on a terminal; elsewhere it needs --yes. An expiry is never moved to a later time, and
    /// never removed. `token delete` ends a token at once.
    ///
    /// Examples:
    ///   portcullis token expire tok_... 30d
    ///   portcullis token expire tok_... 2027-01-31T12:00:00Z --yes
    #[command(verbatim_doc_comment)]
    Expire {
        /// The token's id, such as tok_...
        #[arg(value_name = "TOKEN")]
        token_id: String,
        /// A duration from now, such as 30d, or a time, such as 2027-01-31T12:00:00Z
        #[arg(value_name = "TIME|DURATION", value_parser = parse_expiry)]
        expiry: Expiry,
        #[command(flatten)]
        confirmation: Confirmation,
        /// Answer before it is in effect on every replica
        #[arg(long)]
        no_wait: bool,
    },
    /// Revoke the tokens and credentials whose secrets leaked, on every replica
    ///
    /// Reads one secret from each line, with or without `secret-token:` before it, or `sha256:` and the digest of
    /// one in hexadecimal. Every admin of their accounts is mailed. A secret that is unknown, or whose token has
    /// ended before, changes nothing. Asks first on a terminal; elsewhere it needs --yes.
    ///
    /// Examples:
    ///   portcullis token report-leaked found.txt --source commit --url https://git.example.com/...
    ///   scanner | portcullis token report-leaked --yes
    #[command(verbatim_doc_comment)]
    ReportLeaked(ReportLeakedArgs),
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
struct UpdateArgs {
    /// The token's id, such as tok_...
    #[arg(value_name = "TOKEN")]
    token_id: String,
    /// The new name, for people; need not be unique
    #[arg(long, group = "what")]
    name: Option<String>,
    /// A label; repeat it for more. These replace all labels that the token has
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label, group = "what")]
    labels: Vec<(String, String)>,
    /// Remove all labels
    #[arg(long, conflicts_with = "labels", group = "what")]
    no_labels: bool,
}

/// Fits clap's `value_parser`. What may stand in either part is for the server to say.
fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, such as team=payments")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Labels by key.
///
/// # Errors
/// A key is there twice.
fn labels(given: Vec<(String, String)>) -> Result<HashMap<String, String>, Failure> {
    let mut labels = HashMap::new();
    for (key, value) in given {
        let text = format!("--label: {} is there twice: name each key once", clean(&key));
        if labels.insert(key, value).is_some() {
            return Err(Failure::Usage(text));
        }
    }
    Ok(labels)
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The account that will own it
    #[arg(long, value_name = "ACCOUNT")]
    account: String,
    /// A label for people; need not be unique
    #[arg(long)]
    name: String,
    /// What it may do
    #[arg(long, value_enum)]
    kind: Kind,
    /// A scope that a custom token may use; repeat it for more
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// An address or range it may be used from, or several with commas; repeat it for more.
    /// Required for read-write, and for custom with a scope that requires it
    #[arg(long = "whitelist", value_name = "ENTRY")]
    whitelist: Vec<String>,
    /// When it ends: a duration from now, such as 90d, or a time, such as 2027-01-31T12:00:00Z. It can be
    /// brought nearer afterwards, never postponed
    #[arg(long, value_name = "TIME|DURATION", value_parser = parse_expiry)]
    expires: Option<Expiry>,
    /// A label, for people and programs; repeat it for more
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Check everything, create nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct ReplaceArgs {
    /// The id of the token to be replaced, such as tok_...
    #[arg(value_name = "TOKEN")]
    token_id: String,
    /// How long the old token lasts: at most 30d [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    overlap: Option<Duration>,
    /// A scope that the new token may use, of those that the old one may; repeat it for more. Without it: all
    /// of them
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// An address or range that the new token may be used from, or several with commas; repeat it for
    /// more. Without it: those of the old one
    #[arg(long = "whitelist", value_name = "ENTRY")]
    whitelist: Vec<String>,
    /// When the new token ends: a duration from now, such as 90d, or a time, such as 2027-01-31T12:00:00Z.
    /// Without it: when the old one was to end
    #[arg(long, value_name = "TIME|DURATION", value_parser = parse_expiry)]
    expires: Option<Expiry>,
    /// Check everything, change nothing, and show what the old token uses
    #[arg(long)]
    dry_run: bool,
    /// Answer before the end of the old token is in effect on every replica
    #[arg(long)]
    no_wait: bool,
}

/// When a token or credential ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expiry {
    At(prost_types::Timestamp),
    /// From now on, by the server's time: the clock of this machine decides nothing.
    After(Duration),
}

impl Expiry {
    /// The same as [`Expiry::fields`], for a flag that may be absent.
    pub(super) fn optional_fields(
        expiry: Option<Self>,
    ) -> Result<(Option<prost_types::Timestamp>, Option<prost_types::Duration>), Failure> {
        expiry.map_or(Ok((None, None)), Self::fields)
    }

    /// The fields `expire_time` and `ttl` of a request.
    fn fields(
        self,
    ) -> Result<(Option<prost_types::Timestamp>, Option<prost_types::Duration>), Failure> {
        match self {
            Self::At(time) => Ok((Some(time), None)),
            Self::After(length) => {
                let ttl = length
                    .try_into()
                    .map_err(|_| Failure::Usage("the duration is too long".to_owned()))?;
                Ok((None, Some(ttl)))
            }
        }
    }
}

/// As a question says it.
impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(time) => write!(f, "at {}", when(Some(time))),
            Self::After(length) => write!(f, "in {}", duration::print(*length)),
        }
    }
}

/// Fits clap's `value_parser`.
pub(super) fn parse_expiry(text: &str) -> Result<Expiry, String> {
    if text.contains(['-', ':']) {
        return parse_time(text).map(Expiry::At);
    }
    let length = duration::parse(text).map_err(|error| format!("{error}, or write a time"))?;
    Ok(Expiry::After(length))
}

/// What a new token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Every scope that reads
    ReadOnly,
    /// Every scope; needs a whitelist
    ReadWrite,
    /// The scopes listed with --scope
    Custom,
}

impl From<Kind> for proto::TokenKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::ReadOnly => Self::ReadOnly,
            Kind::ReadWrite => Self::ReadWrite,
            Kind::Custom => Self::Custom,
        }
    }
}

pub(super) async fn run(args: TokenArgs) -> Result<(), Failure> {
    match args.command {
        TokenCommand::Managed(command) => manage(&Session::open(args.common).await?, command).await,
        TokenCommand::Own(command) => own_token::run(args.common, command).await,
    }
}

async fn manage(session: &Session, command: ManagedCommand) -> Result<(), Failure> {
    match command {
        ManagedCommand::Create(args) => create(session, args).await,
        ManagedCommand::Import(args) => import::run(session, args).await,
        ManagedCommand::Show { token_id } => {
            let answer = get(session, token_id).await?;
            if session.print_json(&answer)? {
                return Ok(());
            }
            print(&show(&answer.token.ok_or_else(|| missing("token"))?))
        }
        ManagedCommand::List { account, deleted, limit } => {
            list(session, account.unwrap_or_default(), deleted, limit).await
        }
        ManagedCommand::Usage { token_id } => usage(session, token_id).await,
        ManagedCommand::Delete { token_id, confirmation, no_wait } => {
            let question = "Delete it? Nothing brings it back.";
            confirmation.ask(question, async || about(session, &token_id).await).await?;
            let request = proto::DeleteTokenRequest { token_id, no_wait };
            let answer = session.answer_as_text(session.tokens().delete_token(request).await)?;
            let Some(answer) = answer else { return Ok(()) };
            let token = answer.token.ok_or_else(|| missing("token"))?;
            let time = when(token.delete_time.as_ref());
            note(&format!("{} was deleted at {time}", clean(&token.token_id)));
            note_propagation(answer.propagation.as_ref());
            Ok(())
        }
        ManagedCommand::Replace(args) => replace(session, args).await,
        ManagedCommand::Update(args) => {
            let mut paths = Vec::new();
            if args.name.is_some() {
                paths.push("name".to_owned());
            }
            if args.no_labels || !args.labels.is_empty() {
                paths.push("labels".to_owned());
            }
            let request = proto::UpdateTokenRequest {
                token_id: args.token_id,
                name: args.name.unwrap_or_default(),
                labels: labels(args.labels)?,
                update_mask: Some(prost_types::FieldMask { paths }),
            };
            let answer = session.answer_as_text(session.tokens().update_token(request).await)?;
            let Some(answer) = answer else { return Ok(()) };
            print(&describe(&answer.token.ok_or_else(|| missing("token"))?))
        }
        ManagedCommand::Expire { token_id, expiry, confirmation, no_wait } => {
            let (expire_time, ttl) = expiry.fields()?;
            let question = format!("Let it expire {expiry}? No later time can be set afterwards.");
            confirmation.ask(&question, async || about(session, &token_id).await).await?;
            let request = proto::SetTokenExpiryRequest { token_id, expire_time, ttl, no_wait };
            let answer =
                session.answer_as_text(session.tokens().set_token_expiry(request).await)?;
            let Some(answer) = answer else { return Ok(()) };
            let token = answer.token.ok_or_else(|| missing("token"))?;
            let time = when(token.expire_time.as_ref());
            note(&format!("{} expires at {time}", clean(&token.token_id)));
            note_propagation(answer.propagation.as_ref());
            Ok(())
        }
        ManagedCommand::ReportLeaked(args) => leaks::report(session, args).await,
    }
}

async fn usage(session: &Session, token_id: String) -> Result<(), Failure> {
    let answer = session.tokens().get_token_usage(proto::GetTokenUsageRequest { token_id }).await;
    let answer = session.answer_as_text(answer)?;
    let Some(answer) = answer else { return Ok(()) };
    if answer.days.is_empty() {
        note(&format!("no use since {}", clean(&answer.start_day)));
        return Ok(());
    }
    let row = |used: &proto::TokenUsageDay| {
        [used.day.clone(), used.scope.clone(), used.count.to_string()]
    };
    let rows: Vec<_> = answer.days.iter().map(row).collect();
    print(&table(["DAY (UTC)", "SCOPE", "ALLOWED REQUESTS"], &rows))
}

async fn create(session: &Session, args: CreateArgs) -> Result<(), Failure> {
    let validate_only = args.dry_run;
    let (expire_time, ttl) = Expiry::optional_fields(args.expires)?;
    let request = proto::CreateTokenRequest {
        account_id: args.account,
        name: args.name,
        kind: proto::TokenKind::from(args.kind).into(),
        scopes: args.scopes,
        whitelist: args.whitelist,
        expire_time,
        ttl,
        labels: labels(args.labels)?,
        validate_only,
    };
    let answer = session.answer_as_text(session.tokens().create_token(request).await)?;
    let Some(answer) = answer else { return Ok(()) };
    let token = answer.token.ok_or_else(|| missing("token"))?;
    if validate_only {
        print(&describe(&token))?;
        note("dry run: nothing was created");
        return Ok(());
    }
    note(describe(&token).trim_end());
    print_secret(&answer.secret)
}

async fn replace(session: &Session, args: ReplaceArgs) -> Result<(), Failure> {
    let validate_only = args.dry_run;
    let (expire_time, ttl) = Expiry::optional_fields(args.expires)?;
    let overlap = args.overlap.map(prost_types::Duration::try_from).transpose();
    let overlap =
        overlap.map_err(|_| Failure::Usage("the duration of --overlap is too long".to_owned()))?;
    let request = proto::ReplaceTokenRequest {
        token_id: args.token_id,
        overlap,
        scopes: args.scopes,
        whitelist: args.whitelist,
        expire_time,
        validate_only,
        ttl,
        no_wait: args.no_wait,
    };
    let answer = session.answer_as_text(session.tokens().replace_token(request).await)?;
    let Some(answer) = answer else { return Ok(()) };
    let token = answer.token.ok_or_else(|| missing("token"))?;
    let old = answer.replaced_token.ok_or_else(|| missing("replaced_token"))?;
    let ends = when(old.expire_time.as_ref());
    if validate_only {
        let proposal = answer.proposal.ok_or_else(|| missing("proposal"))?;
        print(&describe(&token))?;
        let lines = [
            ("use since", when(proposal.start_time.as_ref())),
            ("used scopes", proposal.scopes.join(", ")),
            ("unused scopes", proposal.unused_scopes.join(", ")),
            ("the old token would end", ends),
        ];
        let mut text = format!("\n{}", fields(&lines));
        text += &used_from(&proposal.recent_addresses);
        print(&text)?;
        note("dry run: nothing was replaced");
        return Ok(());
    }
    note(describe(&token).trim_end());
    note(&format!("the old token, {}, ends at {ends}", clean(&old.token_id)));
    note_propagation(answer.propagation.as_ref());
    print_secret(&answer.secret)
}

async fn get(session: &Session, token_id: String) -> Result<proto::GetTokenResponse, Failure> {
    let answer = session.tokens().get_token(proto::GetTokenRequest { token_id }).await;
    answer.map(tonic::Response::into_inner).map_err(|s| session.failure(s))
}

async fn list(
    session: &Session,
    account_id: String,
    show_deleted: bool,
    limit: Limit,
) -> Result<(), Failure> {
    let mut client = session.tokens();
    let (tokens, next_page_token) = pages(limit.limit, async |page_size, page_token| {
        let account_id = account_id.clone();
        let request = proto::ListTokensRequest { account_id, page_size, page_token, show_deleted };
        let page = client.list_tokens(request).await.map_err(|s| session.failure(s))?;
        let page = page.into_inner();
        Ok((page.tokens, page.next_page_token))
    })
    .await?;
    let answer = proto::ListTokensResponse { tokens, next_page_token };
    if session.print_json(&answer)? {
        return Ok(());
    }
    if answer.tokens.is_empty() {
        note("no tokens");
        return Ok(());
    }
    let rows: Vec<_> = answer.tokens.iter().map(row).collect();
    print(&table(
        [
            "TOKEN",
            "ACCOUNT",
            "NAME",
            "KIND",
            "STATE",
            "WHITELIST",
            "LAST USE",
            "EXPIRES",
            "PENDING",
            "LABELS",
        ],
        &rows,
    ))?;
    note_more(&answer.next_page_token);
    Ok(())
}

fn row(token: &proto::Token) -> [String; 10] {
    let whitelist = match token.whitelist.as_slice() {
        [] => String::new(),
        [entry] => entry.clone(),
        entries => format!("{} entries", entries.len()),
    };
    [
        token.token_id.clone(),
        token.account_id.clone(),
        token.name.clone(),
        kind(token),
        state(token),
        whitelist,
        when(token.last_use_time.as_ref()),
        when(token.expire_time.as_ref()),
        token.pending_actions.first().map(upcoming).unwrap_or_default(),
        shown_labels(token),
    ]
}

/// In the order of their keys.
fn shown_labels(token: &proto::Token) -> String {
    let labels: BTreeMap<_, _> = token.labels.iter().collect();
    let labels: Vec<_> = labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.join(", ")
}

fn kind(token: &proto::Token) -> String {
    word(token.kind().as_str_name(), "TOKEN_KIND_")
}

fn state(token: &proto::Token) -> String {
    word(token.state().as_str_name(), "TOKEN_STATE_")
}

fn upcoming(action: &proto::PendingAction) -> String {
    let what = word(action.r#type().as_str_name(), "PENDING_ACTION_TYPE_");
    format!("{what} {}", when(action.effective_time.as_ref()))
}

/// What a token is, in short.
fn describe(token: &proto::Token) -> String {
    let mut lines = facts(token);
    lines.insert(6, ("may use", token.granted_scopes.join(", ")));
    lines.extend(token.pending_actions.iter().map(|action| ("pending", upcoming(action))));
    fields(&lines)
}

/// A table of addresses, after an empty line; nothing where there is none.
fn used_from(addresses: &[proto::SeenAddress]) -> String {
    if addresses.is_empty() {
        return String::new();
    }
    let seen = |seen: &proto::SeenAddress| {
        [seen.address.clone(), when(seen.first_time.as_ref()), when(seen.last_time.as_ref())]
    };
    let rows: Vec<_> = addresses.iter().map(seen).collect();
    format!("\n{}", table(["USED FROM", "FIRST SEEN", "LAST SEEN"], &rows))
}

/// All of it: also each scope by itself, and what is planned and why.
fn show(token: &proto::Token) -> String {
    let mut text = fields(&facts(token));
    let scopes = scopes(token);
    if !scopes.is_empty() {
        text.push('\n');
        text += &table(["SCOPE", "LAST USE", "NOW"], &scopes);
    }
    text += &used_from(&token.recent_addresses);
    for action in &token.pending_actions {
        let takes = match action.r#type() {
            proto::PendingActionType::Deletion => "the token".to_owned(),
            _ => action.scopes_taken.join(", "),
        };
        text.push('\n');
        text += &fields(&[
            ("pending", format!("{} at the earliest", upcoming(action))),
            ("removes", takes),
            ("why", action.why.clone()),
            ("how to keep it", action.how_to_keep.clone()),
            ("held back", action.held_because.clone()),
        ]);
    }
    text
}

fn facts(token: &proto::Token) -> Vec<(&'static str, String)> {
    let ended = match token.state() {
        proto::TokenState::RevokedLeaked => "revoked",
        _ => "deleted",
    };
    vec![
        ("token", token.token_id.clone()),
        ("account", token.account_id.clone()),
        ("name", token.name.clone()),
        ("labels", shown_labels(token)),
        ("kind", kind(token)),
        ("state", state(token)),
        (
            "whitelist",
            match token.whitelist.as_slice() {
                [] => "none".to_owned(),
                entries => entries.join(", "),
            },
        ),
        ("whitelist version", token.whitelist_version.to_string()),
        ("created", when(token.create_time.as_ref())),
        ("imported", when(token.import_time.as_ref())),
        (
            "last use",
            match &token.last_use_time {
                None => "none recorded".to_owned(),
                used => when(used.as_ref()),
            },
        ),
        ("expires", when(token.expire_time.as_ref())),
        (
            "expiry notices",
            match token.expiry_notices.as_slice() {
                [] => String::new(),
                queued => notices(queued),
            },
        ),
        ("replaces", token.replaces_token_id.clone()),
        ("replaced by", token.replaced_by_token_id.clone()),
        (ended, when(token.delete_time.as_ref())),
    ]
}

/// Each scope that it may use, has used or has lost, by name.
fn scopes(token: &proto::Token) -> Vec<[String; 3]> {
    let mut scopes: BTreeMap<&str, [String; 2]> = BTreeMap::new();
    for taken in &token.taken {
        let now = format!("removed {}", when(taken.take_time.as_ref()));
        scopes.extend(taken.scopes.iter().map(|s| (s.as_str(), [String::new(), now.clone()])));
    }
    let granted = token.granted_scopes.iter();
    scopes.extend(granted.map(|s| (s.as_str(), [String::new(), "granted".to_owned()])));
    for used in &token.scope_uses {
        let [last, _] = scopes.entry(&used.scope).or_default();
        *last = when(used.last_use_time.as_ref());
    }
    scopes.into_iter().map(|(name, [last, now])| [name.to_owned(), last, now]).collect()
}

/// What a question about a token shows of it.
async fn about(session: &Session, token_id: &str) -> Result<String, Failure> {
    let token = get(session, token_id.to_owned()).await?.token;
    Ok(describe(&token.ok_or_else(|| missing("token"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> proto::Token {
        proto::Token {
            token_id: "tok_1".to_owned(),
            account_id: "acc_1".to_owned(),
            name: "sync\u{1b}[31m".to_owned(),
            kind: proto::TokenKind::ReadWrite.into(),
            state: proto::TokenState::Active.into(),
            granted_scopes: vec!["a.read".to_owned(), "a.write".to_owned()],
            whitelist: vec!["192.0.2.7".to_owned(), "2001:db8::/48".to_owned()],
            whitelist_version: 2,
            labels: HashMap::from([("team".to_owned(), "payments".to_owned())]),
            create_time: Some(parse_time("2026-01-01T00:00:00Z").unwrap()),
            pending_actions: vec![proto::PendingAction {
                r#type: proto::PendingActionType::Downgrade.into(),
                why: "no write use since its creation".to_owned(),
                how_to_keep: "use it to write".to_owned(),
                effective_time: Some(parse_time("2026-02-15T00:00:00Z").unwrap()),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_token_is_described() {
        assert_eq!(
            describe(&token()),
            "token:              tok_1\n\
             account:            acc_1\n\
             name:               sync<U+001B>[31m\n\
             labels:             team=payments\n\
             kind:               read-write\n\
             state:              active\n\
             may use:            a.read, a.write\n\
             whitelist:          192.0.2.7, 2001:db8::/48\n\
             whitelist version:  2\n\
             created:            2026-01-01T00:00:00Z\n\
             last use:           none recorded\n\
             pending:            downgrade 2026-02-15T00:00:00Z\n"
        );
    }

    #[test]
    fn a_token_is_shown_scope_by_scope() {
        let at = |time| Some(parse_time(time).unwrap());
        let mut token = token();
        token.last_use_time = at("2026-01-09T08:00:00Z");
        token.scope_uses = [("a.read", "2026-01-09T08:00:00Z"), ("old", "2026-01-02T00:00:00Z")]
            .map(|(scope, time)| proto::ScopeUse { scope: scope.into(), last_use_time: at(time) })
            .to_vec();
        let (scopes, take_time) = (vec!["c.write".to_owned()], at("2026-01-05T00:00:00Z"));
        token.taken = vec![proto::TakenScopes { scopes, take_time }];
        token.pending_actions[0].scopes_taken = vec!["a.write".to_owned()];
        token.pending_actions[0].held_because = "a notice is not accepted yet".to_owned();
        insta::assert_snapshot!(show(&token));
    }

    #[test]
    fn a_row_is_short() {
        let row = row(&token());
        assert_eq!(row[5], "2 entries");
        assert_eq!(row[6], "");
        assert_eq!(row[8], "downgrade 2026-02-15T00:00:00Z");
        assert_eq!(row[9], "team=payments");
    }
}
