//! `portcullis check`: one decision, without counting it as use.

use std::io::{self, IsTerminal as _, Read as _};

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::connect::Session;
use super::failure::{Failure, NO_ANSWER, REFUSED};
use super::output::{fields, note, print, when, word};
use super::{Common, proto};
use crate::config::client::{TokenArgs, without_line_end};
use proto::authorize_request::Operation;

/// What `check` takes.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    operation: OperationArgs,
    /// The client's address, IPv4 or IPv6; without it, a token with a whitelist is denied
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct OperationArgs {
    /// What the token wants to do: a scope of the catalogue by its name
    #[arg(long, value_name = "SCOPE")]
    scope: Option<String>,
    /// What the token wants to do: an HTTP method and path, which the catalogue's routes map to a
    /// scope
    #[arg(long, value_name = "METHOD PATH", value_parser = parse_http)]
    http: Option<Http>,
}

/// A method and a path; the server judges both.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Http {
    method: String,
    path: String,
}

fn parse_http(text: &str) -> Result<Http, String> {
    match text.trim().split_once(' ') {
        Some((method, path)) => {
            Ok(Http { method: method.to_owned(), path: path.trim_start().to_owned() })
        }
        None => Err("must be a method and a path, such as \"GET /api/v1/accounts\"".to_owned()),
    }
}

impl OperationArgs {
    fn operation(self) -> Option<Operation> {
        match (self.scope, self.http) {
            (Some(scope), _) => Some(Operation::Scope(scope)),
            (None, Some(Http { method, path })) => {
                Some(Operation::Http(proto::HttpOperation { method, path }))
            }
            // Excluded by the group; the server would say that an operation is required.
            (None, None) => None,
        }
    }
}

/// The exit code of the decision: 0 allowed, 1 denied, 2 none.
pub(super) async fn run(args: CheckArgs) -> Result<u8, Failure> {
    let format = args.common.output.format;
    let settings = args.common.client.resolve()?;
    settings.guard_secret("the token's secret")?;
    let token = read_token(args.token)?;
    let session = Session::connect(settings, format).await?;
    let request = proto::AuthorizeRequest {
        token: token.expose_secret().to_owned(),
        client_ip: args.ip.unwrap_or_default(),
        operation: args.operation.operation(),
        dry_run: true,
        at_least_as_fresh: 0,
    };
    let answer = session.authorization().authorize(request).await;
    let answer = answer.map_err(|s| session.failure(s))?.into_inner();
    if !session.print_json(&answer)? {
        print(&describe(&answer))?;
    }
    let code = exit_code(&answer);
    if code == NO_ANSWER {
        note("error: the server's answer is no decision that this version knows: deny");
    }
    Ok(code)
}

fn exit_code(answer: &proto::AuthorizeResponse) -> u8 {
    match answer.decision() {
        proto::Decision::Allow => 0,
        proto::Decision::Deny => REFUSED,
        proto::Decision::Unspecified => NO_ANSWER,
    }
}

fn describe(answer: &proto::AuthorizeResponse) -> String {
    let pending = answer.pending_action.as_ref().map(|action| {
        let what = word(action.r#type().as_str_name(), "PENDING_ACTION_TYPE_");
        let time = when(action.effective_time.as_ref());
        format!("{what} {time} ({})", action.pending_action_id)
    });
    fields(&[
        ("decision", word(answer.decision().as_str_name(), "DECISION_")),
        ("reason", answer.reason().as_str_name().to_owned()),
        ("message", answer.message.clone()),
        ("token", answer.token_id.clone()),
        ("account", answer.account_id.clone()),
        ("required scope", answer.required_scope.clone()),
        ("matched entry", answer.matched_entry.clone()),
        ("pending", pending.unwrap_or_default()),
    ])
}

/// The token's secret from where the arguments say, or else from standard input; never empty.
pub(super) fn read_token(args: TokenArgs) -> Result<SecretString, Failure> {
    let token = match args.resolve()? {
        Some(token) => token,
        None => ask()?,
    };
    if token.expose_secret().trim().is_empty() {
        return Err(Failure::Usage(
            "no token was given, so nothing was decided: write its secret to standard input, or name a \
             file with --token-file or PORTCULLIS_TOKEN_FILE, or set PORTCULLIS_TOKEN"
                .to_owned(),
        ));
    }
    Ok(token)
}

/// The token's secret from standard input, without echo on a terminal.
fn ask() -> Result<SecretString, Failure> {
    let unreadable = |error| Failure::Usage(format!("the token can't be read: {error}"));
    if io::stdin().is_terminal() {
        return rpassword::prompt_password("Token: ").map(SecretString::from).map_err(unreadable);
    }
    let mut text = Zeroizing::new(String::new());
    io::stdin().lock().read_to_string(&mut text).map_err(unreadable)?;
    Ok(SecretString::from(without_line_end(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_operations_are_split() {
        let read = |text| parse_http(text).map(|http| (http.method, http.path));
        let both = |method: &str, path: &str| Ok((method.to_owned(), path.to_owned()));
        assert_eq!(read("GET /api/v1/accounts?x=1"), both("GET", "/api/v1/accounts?x=1"));
        assert_eq!(read("get  /a b"), both("get", "/a b"));
        assert!(read("/api").is_err());
        assert!(read("").is_err());
    }

    #[test]
    fn only_an_allow_exits_with_0() {
        let answer = |decision| proto::AuthorizeResponse { decision, ..Default::default() };
        assert_eq!([0, 1, 2, 99].map(|d| exit_code(&answer(d))), [2, 0, 1, 2]);
    }

    #[test]
    fn a_decision_is_described() {
        let answer = proto::AuthorizeResponse {
            decision: proto::Decision::Deny.into(),
            reason: proto::Reason::ScopeNotGranted.into(),
            message: "needs a.write".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            describe(&answer),
            "decision:  deny\nreason:    REASON_SCOPE_NOT_GRANTED\nmessage:   needs a.write\n"
        );
    }
}
