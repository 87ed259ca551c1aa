//! The way to the server: channel, TLS, credential and timeout.

use std::error::Error;
use std::io;
use std::time::Duration;

use http::Uri;
use secrecy::ExposeSecret as _;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Response, Status};

use super::failure::Failure;
use super::json::{self, Named};
use super::output::print_line;
use super::{Common, proto, protocol};
use crate::config::client::Format;
use crate::config::client::{ClientSettings, Credential, ServerAddress, TlsSettings};
use crate::policy::duration;

use proto::account_service_client::AccountServiceClient;
use proto::authorization_service_client::AuthorizationServiceClient;
use proto::catalog_service_client::CatalogServiceClient;
use proto::credential_service_client::CredentialServiceClient;
use proto::self_service_client::SelfServiceClient;
use proto::token_service_client::TokenServiceClient;
use proto::webhook_service_client::WebhookServiceClient;

/// Largest answer that is read, in bytes: well above a whole page, and small enough for any host.
const MAX_ANSWER: usize = 64 << 20;

/// What generated clients call through.
pub(super) type Service = InterceptedService<Channel, Caller>;

/// Adds the credential and the deadline to each call.
#[derive(Clone)]
pub(super) struct Caller {
    authorization: Option<MetadataValue<Ascii>>,
    timeout: Duration,
}

impl Interceptor for Caller {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        // The channel keeps to it as well as the server.
        request.set_timeout(self.timeout);
        Ok(request)
    }
}

/// One command's connection, and how it wants its answers.
pub(super) struct Session {
    channel: Channel,
    caller: Caller,
    /// The server's URL, where TLS is not spoken to it.
    plaintext: Option<Uri>,
    credential_source: Option<String>,
    format: Format,
}

macro_rules! clients {
    ($($(#[$doc:meta])* $name:ident: $client:ident),+ $(,)?) => {
        $($(#[$doc])*
        pub(super) fn $name(&self) -> $client<Service> {
            $client::with_interceptor(self.channel.clone(), self.caller.clone())
                .max_decoding_message_size(MAX_ANSWER)
        })+
    };
}

impl Session {
    /// Connects as `common` says.
    pub(super) async fn open(common: Common) -> Result<Self, Failure> {
        let format = common.output.format;
        Self::connect(common.client.resolve()?, format).await
    }

    /// Connects with settings already read.
    pub(super) async fn connect(settings: ClientSettings, format: Format) -> Result<Self, Failure> {
        let authorization = settings.credential.as_ref().map(bearer).transpose()?;
        let channel = connect(&settings).await?;
        Ok(Self {
            channel,
            caller: Caller { authorization, timeout: settings.timeout },
            plaintext: match settings.server {
                ServerAddress::Url(url) if settings.tls.is_none() => Some(url),
                _ => None,
            },
            credential_source: settings.credential.map(|credential| credential.source),
            format,
        })
    }

    clients! {
        /// Calls `AccountService`.
        accounts: AccountServiceClient,
        /// Calls `AuthorizationService`.
        authorization: AuthorizationServiceClient,
        /// Calls `CatalogService`.
        catalog: CatalogServiceClient,
        /// Calls `CredentialService`.
        credentials: CredentialServiceClient,
        /// Calls `SelfService`.
        own: SelfServiceClient,
        /// Calls `TokenService`.
        tokens: TokenServiceClient,
        /// Calls `WebhookService`.
        webhooks: WebhookServiceClient,
    }

    /// Whether answers are printed as JSON.
    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// The server's error as this command's failure. What tonic makes up itself when no answer came
    /// is shown as what it is.
    pub(super) fn failure(&self, status: Status) -> Failure {
        let status = if is_timeout(&status) {
            let timeout = duration::print(self.caller.timeout);
            Status::deadline_exceeded(format!("no answer came within {timeout}"))
        } else if let Some(cause) = status.source() {
            if let Some(server) =
                self.plaintext.as_ref().filter(|server| protocol::speaks_tls(server))
            {
                return Failure::Usage(format!(
                    "--server: the server at {} speaks TLS: write https:// instead of http://",
                    ServerAddress::Url(server.clone())
                ));
            }
            let cause = root_cause(cause);
            Status::unavailable(format!("the connection was lost before an answer came: {cause}"))
        } else {
            status
        };
        Failure::Status { status: Box::new(status), credential: self.credential_source.clone() }
    }

    /// The answer to a call, to be printed as text; `None` with `--output json`, which prints it here.
    pub(super) fn answer_as_text<M: Named>(
        &self,
        answer: Result<Response<M>, Status>,
    ) -> Result<Option<M>, Failure> {
        let answer = answer.map_err(|status| self.failure(status))?.into_inner();
        Ok(if self.print_json(&answer)? { None } else { Some(answer) })
    }

    /// With `--output json` prints the answer, and says that nothing is left to print.
    pub(super) fn print_json<M: Named>(&self, answer: &M) -> Result<bool, Failure> {
        match self.format {
            Format::Text => Ok(false),
            Format::Json => print_json(answer).map(|()| true),
        }
    }
}

/// Prints an answer as JSON.
pub(super) fn print_json<M: Named>(answer: &M) -> Result<(), Failure> {
    let value = json::value(answer)
        .ok_or_else(|| Failure::Usage(format!("no description of {} is built in", M::NAME)))?;
    print_line(&format!("{value:#}"))
}

fn bearer(credential: &Credential) -> Result<MetadataValue<Ascii>, Failure> {
    let text = zeroize::Zeroizing::new(format!("Bearer {}", credential.secret.expose_secret()));
    let mut value: MetadataValue<Ascii> = text.parse().map_err(|_| {
        Failure::Usage(format!("the credential in {} fits no header", credential.source))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

async fn connect(settings: &ClientSettings) -> Result<Channel, Failure> {
    let endpoint = match &settings.server {
        ServerAddress::Url(url) => Ok(Endpoint::from(url.clone())),
        socket @ ServerAddress::Unix(_) => Endpoint::from_shared(socket.to_string()),
    };
    let server = &settings.server;
    let endpoint = endpoint
        .map_err(|error| Failure::Usage(format!("--server: {}", root_cause(&error))))?
        .connect_timeout(settings.timeout)
        .user_agent(concat!("portcullis-cli/", env!("CARGO_PKG_VERSION")))
        .and_then(|endpoint| match &settings.tls {
            None => Ok(endpoint),
            Some(tls) => endpoint.tls_config(tls_config(tls)),
        })
        .map_err(|error| Failure::Usage(format!("TLS can't be set up: {}", root_cause(&error))))?;
    // The connect timeout alone covers neither a TLS handshake nor a name that never resolves.
    match tokio::time::timeout(settings.timeout, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error))
            if settings.tls.is_some()
                && (is_not_of_tls(&error)
                    || matches!(server, ServerAddress::Url(url) if protocol::speaks_plaintext(url))) =>
        {
            Err(Failure::Usage(format!(
                "--server: the server at {} speaks no TLS: write http:// instead of https://, where \
                 the way there is protected otherwise",
                server
            )))
        }
        Ok(Err(error)) => Err(Failure::NoServer {
            message: format!("no server answers at {server}: {}", root_cause(&error)),
            refused: is_refusal(&error),
        }),
        Err(_) => Err(Failure::NoServer {
            message: format!(
                "no server answers at {server} within {}",
                duration::print(settings.timeout)
            ),
            refused: false,
        }),
    }
}

fn tls_config(tls: &TlsSettings) -> ClientTlsConfig {
    let config = match &tls.server_ca {
        Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match &tls.identity {
        Some((cert, key)) => config.identity(Identity::from_pem(cert, key.expose_secret())),
        None => config,
    }
}

/// Whether the deadline passed, here or at the server: tonic answers `CANCELLED` for both, and this
/// command cancels nothing.
fn is_timeout(status: &Status) -> bool {
    status.code() == tonic::Code::Cancelled
        && status.message() == tonic::TimeoutExpired(()).to_string()
}

/// The innermost cause, which says what happened; those around it say "transport error".
fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Whether what came from the server is nothing that TLS has.
fn is_not_of_tls(error: &(dyn Error + 'static)) -> bool {
    use rustls::{Error as TlsError, InvalidMessage};
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref::<TlsError>());
        if matches!(tls, Some(TlsError::InvalidMessage(InvalidMessage::InvalidContentType))) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether the host is there and nothing listens at that port, or no socket is at that path.
fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_carries_the_credential_and_the_deadline() {
        let credential = Credential { secret: "hush-hush".into(), source: "a file".to_owned() };
        let mut caller = Caller {
            authorization: Some(bearer(&credential).unwrap()),
            timeout: Duration::from_millis(500),
        };
        let request = caller.call(Request::new(())).unwrap();
        let metadata = request.metadata();
        assert_eq!(metadata.get("authorization").unwrap(), "Bearer hush-hush");
        assert!(metadata.get("grpc-timeout").is_some());
        assert!(!format!("{request:?}").contains("hush"));
    }

    #[test]
    fn a_deadline_is_told_from_other_ends() {
        let expired = Status::from_error(Box::new(tonic::TimeoutExpired(())));
        assert!(is_timeout(&expired), "{expired:?}");
        assert!(!is_timeout(&Status::cancelled("the server is stopping")));
    }
}
