//! Pages of lists are bounded by bytes: a client that reads 4 MiB at most, as gRPC clients do by default, walks
//! every list of large items, and sees each item once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::collections::BTreeSet;

use crate::support::client::Client;
use crate::support::command::Shell;
use crate::support::server::Setup;
use crate::support::wait::until;
use futures_util::{StreamExt as _, stream};
use portcullis::grpc::proto::{
    ApplyCatalogRequest, AuthorizeRequest, BatchAuthorizeRequest, CreateAccountRequest,
    CreateCredentialRequest, GetCatalogRequest, GetTokenRequest, ListAccountsRequest,
    ListAuditEventsRequest, ListCredentialsRequest, ListPendingActionsRequest, ListTokensRequest,
    ManageWhitelistRequest, PreviewLifecycleRequest, Role, TokenKind, authorize_request,
};
use portcullis::service::lists::PAGE_BYTES;
use prost::Message;
use tonic::Status;

/// Tokens, each with [`SCOPES`] scopes and [`ENTRIES`] entries: some 150 KiB.
const TOKENS: usize = 24;
const SCOPES: usize = 1_000;
const ENTRIES: usize = 1_000;
/// Accounts of some 13 KiB.
const ACCOUNTS: usize = 200;
const CREDENTIALS: usize = 120;
/// The largest whitelist that a setting allows.
const MOST_ENTRIES: usize = 10_000;
/// What a message has besides its items: a page token.
const REST: usize = 200;

fn scope(number: usize) -> String {
    format!("scope.{number:04}.{}", "x".repeat(53))
}

/// A catalogue as large as may be.
fn catalog() -> String {
    let scope = |number| {
        let (name, description) = (scope(number), "d".repeat(500));
        let routes: Vec<_> =
            (0..4).map(|route| format!("\"GET /{number}/{route}/{}\"", "r".repeat(60))).collect();
        format!(
            "[[scope]]\nname = \"{name}\"\naccess = \"write\"\ndescription = \"{description}\"\n\
             routes = [{}]\n",
            routes.join(", ")
        )
    };
    let toml: String = (0..SCOPES).map(scope).collect();
    let comment = "#".repeat((1 << 20) - toml.len() - 1);
    format!("{toml}{comment}\n")
}

fn entry(number: usize) -> String {
    format!("2001:db8:ffff:ffff:ffff:ffff:{:x}:{number:x}", 0x1000 + number)
}

/// A page as a client sees it.
struct Page {
    /// What names each item, and its bytes in a list.
    items: Vec<(String, usize)>,
    bytes: usize,
    next: String,
}

fn page<T: Message>(
    answer: &impl Message,
    items: &[T],
    name: impl Fn(&T) -> String,
    next: &str,
) -> Page {
    let size = |item: &T| {
        let length = item.encoded_len();
        1 + prost::length_delimiter_len(length) + length
    };
    let items = items.iter().map(|item| (name(item), size(item))).collect();
    Page { items, bytes: answer.encoded_len(), next: next.to_owned() }
}

/// Walks a list to its end. Every item is seen once, and a page that is not the last is full: of items, or of
/// bytes.
async fn walk(
    what: &str,
    size: usize,
    mut fetch: impl AsyncFnMut(i32, String) -> Result<Page, Status>,
) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    let mut next = String::new();
    loop {
        let page = fetch(i32::try_from(size).unwrap(), next).await.expect(what);
        let (count, bytes) = (page.items.len(), page.bytes);
        assert!(count <= size, "{what}: {count} items");
        assert!(bytes <= PAGE_BYTES + REST || count == 1, "{what}: {bytes} bytes, {count} items");
        assert!(count > 0 || page.next.is_empty(), "{what}: an empty page is the last");
        let largest = page.items.iter().map(|(_, bytes)| *bytes).max().unwrap_or_default();
        assert!(largest < 3 << 20, "{what}: an item has {largest} bytes");
        seen.extend(page.items.into_iter().map(|(name, _)| name));
        if page.next.is_empty() {
            break;
        }
        let full = count == size || bytes + 1_000_000 > PAGE_BYTES;
        assert!(full, "{what}: {count} items, {bytes} bytes, and yet it ends");
        next = page.next;
    }
    let distinct: BTreeSet<_> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len(), "{what}: something is seen twice");
    seen
}

async fn tokens(client: &Client, size: usize, account: &str) -> Vec<String> {
    walk("tokens", size, async |page_size, page_token| {
        let account_id = account.to_owned();
        let request = ListTokensRequest { account_id, page_size, page_token, show_deleted: false };
        let answer = client.tokens().list_tokens(request).await?.into_inner();
        Ok(page(&answer, &answer.tokens, |token| token.token_id.clone(), &answer.next_page_token))
    })
    .await
}

async fn audit(client: &Client, size: usize) -> Vec<String> {
    walk("audit events", size, async |page_size, page_token| {
        let request = ListAuditEventsRequest { page_size, page_token, ..Default::default() };
        let answer = client.tokens().list_audit_events(request).await?.into_inner();
        let name = |event: &portcullis::grpc::proto::AuditEvent| event.revision.to_string();
        Ok(page(&answer, &answer.audit_events, name, &answer.next_page_token))
    })
    .await
}

async fn pending(client: &Client, size: usize) -> Vec<String> {
    walk("pending actions", size, async |page_size, page_token| {
        let request = ListPendingActionsRequest { page_size, page_token, ..Default::default() };
        let answer = client.tokens().list_pending_actions(request).await?.into_inner();
        let name = |action: &portcullis::grpc::proto::PendingAction| action.token_id.clone();
        Ok(page(&answer, &answer.pending_actions, name, &answer.next_page_token))
    })
    .await
}

async fn accounts(client: &Client, size: usize) -> Vec<String> {
    walk("accounts", size, async |page_size, page_token| {
        let request = ListAccountsRequest { page_size, page_token };
        let answer = client.accounts().list_accounts(request).await?.into_inner();
        let name = |account: &portcullis::grpc::proto::Account| account.account_id.clone();
        Ok(page(&answer, &answer.accounts, name, &answer.next_page_token))
    })
    .await
}

async fn credentials(client: &Client, size: usize) -> Vec<String> {
    walk("credentials", size, async |page_size, page_token| {
        let request = ListCredentialsRequest { page_size, page_token };
        let answer = client.credentials().list_credentials(request).await?.into_inner();
        let name = |made: &portcullis::grpc::proto::Credential| made.credential_id.clone();
        Ok(page(&answer, &answer.credentials, name, &answer.next_page_token))
    })
    .await
}

/// Runs `make` for each number, a few at once, and gives what was made in any order.
async fn make<T>(count: usize, make: impl AsyncFn(usize) -> T) -> BTreeSet<T>
where
    T: Ord,
{
    let make = &make;
    stream::iter(0..count).map(|number| make(number)).buffer_unordered(8).collect().await
}

#[tokio::test]
async fn lists_of_large_items_are_walked_within_what_clients_read() {
    let server = Setup::sqlite()
        .flag("--whitelist-max-entries", MOST_ENTRIES.to_string())
        // Announced within a second, and, without a mail server, held for ever.
        .flag("--lifecycle-window", "601s")
        .flag("--lifecycle-notice", "600s")
        .flag("--lifecycle-sweep-interval", "100ms")
        .start();
    let client = Client::operator(&server).await;
    let apply = ApplyCatalogRequest {
        toml: catalog(),
        validate_only: false,
        confirm_narrowing: true,
        no_wait: true,
    };
    client.catalog().apply_catalog(apply).await.unwrap();

    let made_accounts = make(ACCOUNTS, async |number| {
        let admin =
            |admin| format!("{}@{number}.{admin}.{}.example", "a".repeat(64), "b".repeat(60));
        let request = CreateAccountRequest {
            name: "n".repeat(200),
            admin_emails: (0..50).map(admin).collect(),
        };
        let made = client.accounts().create_account(request).await.unwrap().into_inner();
        made.account.unwrap().account_id
    })
    .await;
    let account = made_accounts.first().unwrap();
    make(CREDENTIALS, async |_| {
        let (role, name) = (Role::Pep.into(), "\u{10000}".repeat(200));
        let request = CreateCredentialRequest { role, name, ..Default::default() };
        client.credentials().create_credential(request).await.unwrap();
    })
    .await;
    let scopes: Vec<_> = (0..SCOPES).map(scope).collect();
    let scopes: Vec<_> = scopes.iter().map(String::as_str).collect();
    let entries: Vec<_> = (0..ENTRIES).map(entry).collect();
    let entries: Vec<_> = entries.iter().map(String::as_str).collect();
    let made_tokens = make(TOKENS, async |_| {
        client.token(account, TokenKind::Custom, &scopes, &entries).await.0.token_id
    })
    .await;

    // One whitelist as large as may be, in as many calls as it takes.
    let largest = made_tokens.first().unwrap();
    for from in (ENTRIES..MOST_ENTRIES).step_by(ENTRIES) {
        let add = (from..from + ENTRIES).map(entry).collect();
        let add = ManageWhitelistRequest { token_id: largest.clone(), add, ..Default::default() };
        client.tokens().manage_whitelist(add).await.unwrap();
    }
    let replace = ManageWhitelistRequest { token_id: largest.clone(), ..Default::default() };
    let read = client.tokens().manage_whitelist(replace).await.unwrap().into_inner();
    assert_eq!(read.entries.len(), MOST_ENTRIES);

    // Nothing changes any more once all of them are announced.
    let gauge = "portcullis_pending_actions{type=\"deletion\"}";
    until(|| server.metric(gauge), |announced| *announced == Some(TOKENS as i64));

    for size in [7, 1_000] {
        let listed: BTreeSet<_> = tokens(&client, size, "").await.into_iter().collect();
        assert_eq!(listed, made_tokens);
        assert_eq!(tokens(&client, size, account).await.len(), TOKENS);
        let listed: BTreeSet<_> = pending(&client, size).await.into_iter().collect();
        assert_eq!(listed, made_tokens);
        let listed: BTreeSet<_> = accounts(&client, size).await.into_iter().collect();
        assert!(listed.is_superset(&made_accounts));
        assert!(credentials(&client, size).await.len() > CREDENTIALS);
        let positions: Vec<i64> =
            audit(&client, size).await.iter().map(|position| position.parse().unwrap()).collect();
        assert!(positions.is_sorted_by(|a, b| a == &(b + 1)), "an event is missing: {positions:?}");
        assert_eq!(positions.last(), Some(&1));
    }

    // The largest answers that are no lists.
    let get = GetTokenRequest { token_id: largest.clone() };
    let token = client.tokens().get_token(get).await.unwrap().into_inner().token.unwrap();
    assert_eq!((token.whitelist.len(), token.granted_scopes.len()), (MOST_ENTRIES, SCOPES));
    let catalog = client.catalog().get_catalog(GetCatalogRequest {}).await.unwrap().into_inner();
    assert_eq!(catalog.scopes.len(), SCOPES);
    let preview = PreviewLifecycleRequest { account_id: String::new() };
    let preview = client.tokens().preview_lifecycle(preview).await.unwrap().into_inner();
    assert_eq!(preview.token_count, TOKENS as i64);
    for today in [preview.announced_today, preview.carried_out_today] {
        let today = today.unwrap();
        let (named, bytes) = (today.actions.len(), today.encoded_len());
        assert!(bytes < PAGE_BYTES + REST, "{bytes} bytes of {named} actions");
    }
    let worst = AuthorizeRequest {
        token: "x".repeat(100),
        client_ip: "\u{10ffff}".repeat(100),
        operation: Some(authorize_request::Operation::Scope("\u{10ffff}".repeat(1_000))),
        dry_run: false,
        at_least_as_fresh: 0,
    };
    let batch = BatchAuthorizeRequest { requests: vec![worst; 900] };
    let batch = client.authorization().batch_authorize(batch).await.unwrap().into_inner();
    assert_eq!(batch.results.len(), 900);

    let shell = Shell::operator(&server);
    let listed = shell.run(&["token", "list", "--output", "json"]).json();
    assert_eq!(listed["tokens"].as_array().unwrap().len(), TOKENS);
    let listed = shell.run(&["account", "list", "--output", "json"]).json();
    assert!(listed["accounts"].as_array().unwrap().len() >= ACCOUNTS);
}
