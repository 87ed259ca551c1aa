//! `portcullis credential`.

use clap::{Args, Subcommand, ValueEnum};

use super::confirm::Confirmation;
use super::connect::{Session, print_json};
use super::failure::Failure;
use super::output::{
    clean, fields, note, note_more, note_propagation, print, print_line, print_secret, table, when,
    word,
};
use super::paging::{Limit, pages};
use super::token::{Expiry, parse_expiry};
use super::{Common, missing, proto};
use crate::config::client::Format;
use crate::config::server::FirstCredentialArgs;
use crate::pem;
use crate::policy::client_certificate::Fingerprint;

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
    ///   portcullis credential create --role pep --name nginx --client-address-header X-Forwarded-For
    ///   portcullis credential create --like crd_... > nginx.credential
    ///   portcullis credential create --role pep --name traefik --client-certificate traefik.pem \
    ///     --client-address-header X-Forwarded-For > traefik.credential
    #[command(verbatim_doc_comment)]
    Create(Box<Create>),
    /// List credentials, the oldest first; never their secrets
    List(Limit),
    /// Change a credential's name, or bring its end nearer
    ///
    /// With --expires it asks first on a terminal; elsewhere it needs --yes.
    ///
    /// Examples:
    ///   portcullis credential update crd_... --name checkout-2
    ///   portcullis credential update crd_... --expires 7d --yes
    #[command(verbatim_doc_comment)]
    #[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
    Update {
        /// The credential, such as crd_...
        #[arg(value_name = "CREDENTIAL")]
        credential_id: String,
        /// The new name; empty for none
        #[arg(long, group = "what")]
        name: Option<String>,
        /// When it ends: a duration from now, such as 90d, or a time, such as 2027-01-31T12:00:00Z. Only ever nearer,
        /// and not for the role operator
        #[arg(long, value_name = "TIME|DURATION", value_parser = parse_expiry, group = "what")]
        expires: Option<Expiry>,
        #[command(flatten)]
        confirmation: Confirmation,
        /// Answer before it is in effect on every replica
        #[arg(long)]
        no_wait: bool,
    },
    /// End a credential, on every replica
    ///
    /// Asks first on a terminal; elsewhere it needs --yes. Answers once no replica accepts it any more.
    /// Nothing makes it valid again; revoking it again changes nothing.
    Revoke {
        /// The credential, such as crd_...
        #[arg(value_name = "CREDENTIAL")]
        credential_id: String,
        #[command(flatten)]
        confirmation: Confirmation,
        /// Answer before it is in effect on every replica
        #[arg(long)]
        no_wait: bool,
    },
    /// Make a new key for the secrets of tokens and credentials from now on
    ///
    /// Secrets made under earlier keys stay valid.
    RotateKey,
}

#[derive(Debug, Args)]
struct Create {
    /// What its bearer may do
    #[arg(long, value_enum, required_unless_present = "like")]
    role: Option<RoleArg>,
    /// The account that an account-admin looks after
    #[arg(long, value_name = "ACCOUNT", required_if_eq("role", "account-admin"))]
    account: Option<String>,
    /// A label for people
    #[arg(long)]
    name: Option<String>,
    /// When it ends: a duration from now, such as 90d, or a time, such as 2027-01-31T12:00:00Z. It can be brought
    /// nearer afterwards, never postponed. Not for the role operator
    #[arg(long, value_name = "TIME|DURATION", value_parser = parse_expiry)]
    expires: Option<Expiry>,
    /// Take role, account, client source and, without --name, the name from this credential: then give its secret to the
    /// gateway, and revoke the other. Not its client certificates: no two valid credentials may have one in common
    #[arg(
        long,
        value_name = "CREDENTIAL",
        conflicts_with_all = ["role", "account", "ClientSourceArgs"]
    )]
    like: Option<String>,
    /// A certificate with which a gateway may identify itself on --gateway-listen instead of sending the secret: a PEM
    /// file, of which the first certificate counts, or sha256: and the fingerprint of its DER form. Repeat it, up to 4
    /// times. The server has to accept its authority (--tls-client-ca)
    #[arg(long, value_name = "FILE", help_heading = "Gateways (--role pep)")]
    client_certificate: Vec<String>,
    #[command(flatten)]
    client_source: ClientSourceArgs,
}

impl Create {
    /// Whether it asks for what a store's first credential is, and for nothing else.
    fn may_be_first(&self) -> bool {
        self.role == Some(RoleArg::Operator)
            && self.account.is_none()
            && self.expires.is_none()
            && self.client_certificate.is_empty()
            && self.client_source == ClientSourceArgs::default()
    }
}

/// Where a gateway that presents the credential reads its client from.
#[derive(Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Gateways (--role pep)")]
struct ClientSourceArgs {
    /// The header with the client's address, such as X-Forwarded-For or Forwarded [default: none, so that interfaces
    /// over HTTP know no address]
    #[arg(long, value_name = "HEADER")]
    client_address_header: Option<String>,
    /// A proxy, or a range of them, that appends to that header; repeat it, or separate them with commas
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    trusted_proxy: Vec<String>,
    /// The header with the client's token [default: Authorization]
    #[arg(long, value_name = "HEADER")]
    client_token_header: Option<String>,
    /// The header with the request's method [default: X-Forwarded-Method or X-Original-Method]
    #[arg(long, value_name = "HEADER")]
    client_method_header: Option<String>,
    /// The header with the request's path and query [default: X-Forwarded-Uri or X-Original-URI]
    #[arg(long, value_name = "HEADER")]
    client_uri_header: Option<String>,
    /// Whether the client's token stays on the request that the gateway passes on [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    forward_client_token: Option<bool>,
}

impl ClientSourceArgs {
    /// `None` where no flag is given.
    fn message(self) -> Option<proto::ClientSource> {
        let source = proto::ClientSource {
            address_header: self.client_address_header.unwrap_or_default(),
            trusted_proxies: self.trusted_proxy,
            token_header: self.client_token_header.unwrap_or_default(),
            method_header: self.client_method_header.unwrap_or_default(),
            uri_header: self.client_uri_header.unwrap_or_default(),
            forward_token: self.forward_client_token,
        };
        (source != proto::ClientSource::default()).then_some(source)
    }
}

/// What a credential's bearer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleArg {
    /// A service that asks for decisions, and nothing else
    Pep,
    /// Looks after the tokens of one account
    AccountAdmin,
    /// Everything
    Operator,
}

impl From<RoleArg> for proto::Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Pep => Self::Pep,
            RoleArg::AccountAdmin => Self::AccountAdmin,
            RoleArg::Operator => Self::Operator,
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
        (Err(Failure::NoServer { refused: true, .. }), CredentialCommand::Create(create))
            if may_be_first && create.may_be_first() =>
        {
            note(
                "no server answers and no credential is given: opening the store for its first one",
            );
            let first =
                FirstCredentialArgs { data_dir, name: create.name.clone().unwrap_or_default() };
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
        CredentialCommand::Create(create) => {
            let certificates = fingerprints(&create.client_certificate)?;
            let mut request = match &create.like {
                Some(id) => copy(find(&session, id).await?, create.name),
                None => proto::CreateCredentialRequest {
                    role: create.role.map_or(proto::Role::Unspecified, Into::into).into(),
                    account_id: create.account.unwrap_or_default(),
                    name: create.name.unwrap_or_default(),
                    client_source: create.client_source.message(),
                    ..Default::default()
                },
            };
            (request.expire_time, request.ttl) = Expiry::optional_fields(create.expires)?;
            request.client_certificate_sha256s = certificates;
            let answer = session.answer_as_text(client.create_credential(request).await)?;
            answer.map_or(Ok(()), created)
        }
        CredentialCommand::List(Limit { limit }) => {
            let (credentials, next_page_token) =
                pages(limit, async |size, token| page(&session, size, token).await).await?;
            let answer = proto::ListCredentialsResponse { credentials, next_page_token };
            if session.print_json(&answer)? { Ok(()) } else { list(&answer) }
        }
        CredentialCommand::Update { credential_id, name, expires, confirmation, no_wait } => {
            if let Some(expires) = expires {
                let question =
                    format!("Let it expire {expires}? No later time can be set afterwards.");
                confirmation.ask(&question, async || about(&session, &credential_id).await).await?;
            }
            let (expire_time, ttl) = Expiry::optional_fields(expires)?;
            let request =
                proto::UpdateCredentialRequest { credential_id, name, expire_time, ttl, no_wait };
            let answer = session.answer_as_text(client.update_credential(request).await)?;
            let Some(answer) = answer else { return Ok(()) };
            let credential = answer.credential.ok_or_else(|| missing("credential"))?;
            note_propagation(answer.propagation.as_ref());
            print(&describe(&credential))
        }
        CredentialCommand::Revoke { credential_id, confirmation, no_wait } => {
            let question = "Revoke it? Nothing makes it valid again.";
            confirmation.ask(question, async || about(&session, &credential_id).await).await?;
            let request = proto::RevokeCredentialRequest { credential_id, no_wait };
            let answer = session.answer_as_text(client.revoke_credential(request).await)?;
            let Some(answer) = answer else { return Ok(()) };
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
            let answer = session.answer_as_text(client.rotate_secret_key(request).await)?;
            let Some(answer) = answer else { return Ok(()) };
            note(
                "secrets are made under a new key from now on; earlier ones stay valid. Its number:",
            );
            print_line(&answer.key_number.to_string())
        }
    }
}

/// A page of credentials, and where the next one begins.
async fn page(
    session: &Session,
    page_size: i32,
    page_token: String,
) -> Result<(Vec<proto::Credential>, String), Failure> {
    let request = proto::ListCredentialsRequest { page_size, page_token };
    let page = session.credentials().list_credentials(request).await;
    let page = page.map_err(|status| session.failure(status))?.into_inner();
    Ok((page.credentials, page.next_page_token))
}

/// What a question about a credential shows of it.
async fn about(session: &Session, id: &str) -> Result<String, Failure> {
    Ok(describe(&find(session, id).await?))
}

/// What a credential is, in short.
fn describe(credential: &proto::Credential) -> String {
    fields(&[
        ("credential", credential.credential_id.clone()),
        ("role", role(credential)),
        ("name", credential.name.clone()),
        ("expires", when(credential.expire_time.as_ref())),
        ("last use", when(credential.last_use_time.as_ref())),
    ])
}

/// A credential by its id, also a revoked one.
async fn find(session: &Session, id: &str) -> Result<proto::Credential, Failure> {
    let (credentials, _) =
        pages(None, async |size, token| page(session, size, token).await).await?;
    let found = credentials.into_iter().find(|credential| credential.credential_id == id);
    found.ok_or_else(|| {
        let text =
            format!("there is no credential {}: see `portcullis credential list`", clean(id));
        Failure::Usage(text)
    })
}

/// A request for a credential like `credential` (Rule 9.7 of docs/policy.md).
fn copy(credential: proto::Credential, name: Option<String>) -> proto::CreateCredentialRequest {
    proto::CreateCredentialRequest {
        role: credential.role,
        account_id: credential.account_id,
        name: name.unwrap_or(credential.name),
        client_source: credential.client_source,
        ..Default::default()
    }
}

/// The fingerprints of certificates that are given as files or as fingerprints. Notes those of files.
fn fingerprints(certificates: &[String]) -> Result<Vec<Vec<u8>>, Failure> {
    let read = |given: &String| -> Result<Fingerprint, String> {
        if given.starts_with("sha256:") {
            return given.parse().map_err(|error| format!("{} {error}", clean(given)));
        }
        let pem =
            std::fs::read(given).map_err(|error| format!("{given} can't be read: {error}"))?;
        let chain = pem::certificates(&pem).map_err(|why| format!("{given} {why}"))?;
        let fingerprint = Fingerprint::of(&chain[0]);
        note(&format!("{}: {fingerprint}", clean(given)));
        Ok(fingerprint)
    };
    let read = certificates.iter().map(read).collect::<Result<Vec<_>, _>>();
    let read = read.map_err(|why| Failure::Usage(format!("--client-certificate: {why}")))?;
    Ok(read.iter().map(|fingerprint| fingerprint.as_bytes().to_vec()).collect())
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
                when(credential.last_use_time.as_ref()),
                when(credential.expire_time.as_ref()),
                when(credential.revoke_time.as_ref()),
                if credential.from_settings { "settings" } else { "created" }.to_owned(),
                gateway(credential),
            ]
        })
        .collect();
    print(&table(
        [
            "CREDENTIAL",
            "ROLE",
            "NAME",
            "ACCOUNT",
            "CREATED",
            "LAST USE",
            "EXPIRES",
            "REVOKED",
            "ORIGIN",
            "GATEWAY",
        ],
        &rows,
    ))?;
    note_more(&answer.next_page_token);
    Ok(())
}

/// In one line: the client source, and the client certificates as the flag takes them.
fn gateway(credential: &proto::Credential) -> String {
    let sha256s = credential.client_certificate_sha256s.iter();
    let certificates = sha256s
        .filter_map(|bytes| Fingerprint::try_from(&**bytes).ok())
        .map(|fingerprint| format!("certificate={fingerprint}"));
    let source = credential.client_source.as_ref().map(client_source);
    source.into_iter().chain(certificates).collect::<Vec<_>>().join(" ")
}

/// In one line, as the flags would be written: what is not said is the default.
fn client_source(source: &proto::ClientSource) -> String {
    let headers = [
        ("address", &source.address_header),
        ("token", &source.token_header),
        ("method", &source.method_header),
        ("uri", &source.uri_header),
    ];
    let headers = headers.into_iter().filter(|(_, header)| !header.is_empty());
    let mut parts: Vec<String> =
        headers.map(|(field, header)| format!("{field}={header}")).collect();
    if !source.trusted_proxies.is_empty() {
        parts.push(format!("proxies={}", source.trusted_proxies.join(",")));
    }
    if source.forward_token == Some(false) {
        parts.push("forward-token=false".to_owned());
    }
    if parts.is_empty() { "default".to_owned() } else { parts.join(" ") }
}
