//! What `serve --dev` prints: a demo account, fresh tokens, and calls to try.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::Context as _;

use crate::config::server::{ServeSettings, StoreSettings};
use crate::policy::scope::{Access, Scope};
use crate::policy::token::TokenKind;
use crate::secret::Secret;
use crate::service::lists::{PageItem, Paging};
use crate::service::tokens::CreateToken;
use crate::service::{Caller, Services};
use crate::store::Account;

const NAMES: [&str; 3] = ["Demo: read only", "Demo: read and write", "Demo: custom"];

/// Makes the demo account's tokens anew, and prints what can be done with them at `address`, where
/// gRPC is served, and `http`, where the page is: not those of the settings, whose ports may be 0.
pub(super) async fn print(
    services: &Services,
    settings: &ServeSettings,
    address: SocketAddr,
    http: SocketAddr,
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
            account_id: &account_id,
            name,
            kind: Some(kind),
            scopes,
            whitelist,
            validate_only: false,
        };
        let (_, secret) = services.create_token(&caller, request).await?;
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
    let (transport, scheme) = match settings.tls {
        Some(_) => ("-insecure", "https"),
        None => ("-plaintext", "http"),
    };
    writeln!(out, "\nLook after them in a browser:\n\n  {scheme}://{http}")?;
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
    writeln!(out, "  # everything else there is")?;
    writeln!(out, "  grpcurl {transport} {address} list\n")?;
    writeln!(
        out,
        "What becomes of unused tokens takes weeks. To see it in seconds, start with\n\n  \
         portcullis serve --dev --lifecycle-window 60s --lifecycle-notice 30s \\\n      \
         --lifecycle-sweep-interval 1s\n\nand ask now and then what is announced and what holds \
         it back: nothing is taken before\nadmins were mailed.\n\n  portcullis pending\n  \
         portcullis pending --preview\n"
    )?;
    out.flush()?;
    Ok(())
}

async fn account(services: &Services, caller: &Caller) -> anyhow::Result<Account> {
    let page =
        services.list_accounts(caller, Paging { size: 1, token: "" }, PageItem::unmeasured).await?;
    match page.items.into_iter().next() {
        Some(account) => Ok(account),
        None => {
            Ok(services.create_account(caller, "Demo", &["admin@example.com".to_owned()]).await?)
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
