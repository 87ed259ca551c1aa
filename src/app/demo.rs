//! What `serve --dev` prints: a demo account, fresh tokens, and calls to try.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;

use crate::config::server::{ListenSetting, ServeSettings, StoreSettings};
use crate::mail::{self, PublicUrl};
use crate::model::Account;
use crate::net::ListenerAddress;
use crate::policy::duration;
use crate::policy::scope::{Access, Scope};
use crate::policy::token::TokenKind;
use crate::secret::Secret;
use crate::service::lists::{PageItem, Paging};
use crate::service::tokens::CreateToken;
use crate::service::{Caller, Services};

/// The address that `portcullis` connects to by default.
const DEFAULT_GRPC: &str = "127.0.0.1:50051";
/// A person who waits for longer than this sees nothing happen.
const WATCHABLE: Duration = Duration::from_secs(60 * 60);

const NAMES: [&str; 3] = ["Demo: read only", "Demo: read and write", "Demo: custom"];

/// Makes the demo account's tokens again, and prints what can be done with them at the first of `grpc`, where
/// gRPC is served, and `http`, where the page is: not those of the settings, whose ports may be 0.
pub(super) async fn print(
    services: &Services,
    settings: &ServeSettings,
    grpc: &[ListenerAddress],
    http: SocketAddr,
    gateway: Option<SocketAddr>,
) -> anyhow::Result<()> {
    let caller = Caller::development(None);
    let account = account(services, &caller).await?;
    let account_id = account.id.to_string();
    delete_former(services, &caller, &account_id).await?;

    let in_force = services.get_catalog()?;
    let find = |wanted: &dyn Fn(&&Scope) -> bool| {
        in_force.catalog.scopes().iter().find(wanted).map(|scope| scope.name.to_string())
    };
    let read = find(&|scope| scope.name.as_str() == "transactions.read")
        .or_else(|| find(&|scope| scope.access == Access::Read));
    let guarded = find(&|scope| scope.name.as_str() == "cards.reveal")
        .or_else(|| find(&|scope| scope.requires_whitelist));
    let here = ["127.0.0.1".to_owned(), "::1".to_owned()];
    let scopes: Vec<String> = read.iter().chain(&guarded).cloned().collect();

    let create = async |name: &str, kind: TokenKind, scopes: &[String], whitelist: &[String]| {
        let request = CreateToken {
            expires: None,
            account_id: &account_id,
            name,
            kind: Some(kind),
            scopes,
            whitelist,
            labels: None,
            validate_only: false,
        };
        let (_, secret) = services.create_token(&caller, request).await?.value;
        secret.context("a new token has a secret")
    };
    let read_only = create(NAMES[0], TokenKind::ReadOnly, &[], &[]).await?;
    let read_write = create(NAMES[1], TokenKind::ReadWrite, &[], &here).await?;
    let custom = match scopes.is_empty() {
        true => None,
        false => Some(create(NAMES[2], TokenKind::Custom, &scopes, &here).await?),
    };

    let mut out = std::io::stdout().lock();
    let data_dir = match &settings.store {
        StoreSettings::Embedded(data_dir) => data_dir.display().to_string(),
        StoreSettings::Postgres { .. } => String::new(),
    };
    writeln!(
        out,
        "Development mode: no credentials, this host only, data in {data_dir}.\n\n\
         Account {account_id} ({}) has three fresh tokens:\n",
        account.name
    )?;
    writeln!(out, "  read only, from anywhere        {}", read_only.expose())?;
    writeln!(out, "  read and write, from this host  {}", read_write.expose())?;
    if let Some(custom) = &custom {
        writeln!(out, "  {}, from this host\n{:34}{}", scopes.join(" and "), "", custom.expose())?;
    }
    let grpc = grpc.first().context("gRPC is served somewhere")?;
    let (transport, address) = match grpc {
        ListenerAddress::Unix(path) => {
            ("-plaintext -unix", mail::shell_word(&path.display().to_string()))
        }
        ListenerAddress::Tcp(address) if settings.tls.is_some() => {
            ("-insecure", address.to_string())
        }
        ListenerAddress::Tcp(address) => ("-plaintext", address.to_string()),
    };
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    writeln!(out, "\nManage them in a browser:\n\n  {scheme}://{http}")?;
    let authorize = |secret: &Secret, ip: &str, scope: &str| {
        format!(
            "  grpcurl {transport} -d '{{\"token\": \"{}\", \"client_ip\": \"{ip}\", \"scope\": \
             \"{scope}\"}}' \\\n    {address} portcullis.v1.AuthorizationService/Authorize\n",
            secret.expose()
        )
    };
    writeln!(out, "\nTry them with grpcurl:\n")?;
    if let Some(read) = &read {
        writeln!(out, "  # allowed: it may read, and has no whitelist")?;
        writeln!(out, "{}", authorize(&read_only, "203.0.113.7", read))?;
    }
    if let Some(guarded) = &guarded {
        writeln!(out, "  # denied: it was not granted that scope")?;
        writeln!(out, "{}", authorize(&read_only, "127.0.0.1", guarded))?;
        writeln!(out, "  # allowed, and the answer names the whitelist entry that matched")?;
        writeln!(out, "{}", authorize(&read_write, "127.0.0.1", guarded))?;
        writeln!(out, "  # denied: 203.0.113.7 is not in its whitelist")?;
        writeln!(out, "{}", authorize(&read_write, "203.0.113.7", guarded))?;
    }
    let route = read.as_deref().and_then(|name| in_force.catalog.by_name(name)).and_then(|scope| {
        let routes = scope.routes.iter().map(ToString::to_string);
        routes
            .filter(|route| !route.contains('{'))
            .find_map(|route| route.strip_prefix("GET ").map(str::to_owned))
    });
    if let (Some(gateway), Some(path)) = (gateway, route) {
        writeln!(
            out,
            "  # as a gateway asks about a request of its client: 200 lets it pass\n  \
             curl -ki {scheme}://{gateway}/forward-auth -H 'Authorization: Bearer {}' \\\n    \
             -H 'X-Forwarded-Method: GET' -H 'X-Forwarded-Uri: {path}'\n",
            read_only.expose()
        )?;
    }
    writeln!(out, "  # everything else there is")?;
    writeln!(out, "  grpcurl {transport} {address} list\n")?;
    writeln!(out, "{}", lifecycle_hint(settings, grpc, &format!("{scheme}://{http}")))?;
    out.flush()?;
    Ok(())
}

/// How to watch the lifecycle of unused tokens, with the ports and files that this server was started with.
fn lifecycle_hint(settings: &ServeSettings, grpc: &ListenerAddress, page: &str) -> String {
    let server = match (&settings.tls, grpc.to_string()) {
        (_, socket) if matches!(grpc, ListenerAddress::Unix(_)) => {
            format!(" --server {}", mail::shell_word(&socket))
        }
        (None, address) if address == DEFAULT_GRPC => String::new(),
        (None, address) => format!(" --server http://{address}"),
        (Some(_), address) => format!(" --server https://{address} --server-ca FILE"),
    };
    let mut hint = String::new();
    let rules = settings.lifecycle.rules;
    if rules.window() > WATCHABLE {
        let first = |addresses: &[SocketAddr]| {
            addresses.first().map_or_else(String::new, ToString::to_string)
        };
        let mut flags = String::new();
        let mut flag = |name: &str, value: String, default: &str| {
            if value != default {
                flags.push_str(&format!(" --{name} {}", mail::shell_word(&value)));
            }
        };
        let text = |listener: &ListenSetting| match listener {
            ListenSetting::Tcp(addresses) => first(addresses),
            ListenSetting::Unix { path, mode } => {
                format!("unix:{}?mode={mode:04o}", path.display())
            }
        };
        let mut listeners = |name: &str, listeners: &[ListenSetting], default: &str| {
            for listener in listeners {
                // Where there is another one, the default has to be named, too.
                flag(name, text(listener), if listeners.len() == 1 { default } else { "" });
            }
        };
        listeners("listen", &settings.listen, DEFAULT_GRPC);
        listeners("gateway-listen", &settings.gateway.listen, "127.0.0.1:8081");
        flag("http-listen", first(&settings.http_listen), "127.0.0.1:8080");
        if let StoreSettings::Embedded(data_dir) = &settings.store {
            flag("data-dir", data_dir.display().to_string(), "portcullis-data");
        }
        if let Some(tls) = &settings.tls {
            flag("tls-cert", tls.cert.display().to_string(), "");
            flag("tls-key", tls.key.display().to_string(), "");
        }
        hint.push_str(&format!(
            "What becomes of unused tokens takes weeks. To see it in a minute, start with\n\n  \
             portcullis serve --dev{flags} \\\n      --lifecycle-window 60s --lifecycle-notice 30s \
             --lifecycle-sweep-interval 1s\n\nand watch:\n"
        ));
    } else {
        hint.push_str(&format!(
            "Tokens that are not used for {} are deleted, and their admins mailed {} before. Watch it:\n",
            duration::in_words(rules.window()),
            duration::in_words(rules.notice())
        ));
    }
    hint.push_str(&format!(
        "\n  portcullis pending{server}\n  portcullis pending --preview{server}\n"
    ));
    if settings.mail.relay.is_none() {
        hint.push_str(&format!(
            "\nNo mail leaves this server, as none is configured: read what admins would get at\n\n  \
             {page}/mails\n"
        ));
    }
    hint
}

/// Where mails of a server without `--public-url` link to.
pub(super) fn page(settings: &ServeSettings, http: SocketAddr) -> Option<PublicUrl> {
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{http}").parse().ok()
}

async fn account(services: &Services, caller: &Caller) -> anyhow::Result<Account> {
    let page =
        services.list_accounts(caller, Paging { size: 1, token: "" }, PageItem::unmeasured).await?;
    match page.items.into_iter().next() {
        Some(account) => Ok(account),
        None => {
            let admins = ["admin@example.com".to_owned()];
            Ok(services.create_account(caller, "Demo", &admins).await?.value)
        }
    }
}

/// Deletes the tokens that an earlier start made.
async fn delete_former(
    services: &Services,
    caller: &Caller,
    account_id: &str,
) -> anyhow::Result<()> {
    let mut token = String::new();
    loop {
        let paging = Paging { size: 1_000, token: &token };
        let show = |token, _: &_| PageItem::unmeasured(token);
        let page = services.list_tokens(caller, account_id, false, paging, show).await?;
        for former in page.items.iter().filter(|former| NAMES.contains(&former.name.as_str())) {
            services.delete_token(caller, &former.id.to_string(), false).await?;
        }
        if page.next.is_empty() {
            return Ok(());
        }
        token = page.next;
    }
}
