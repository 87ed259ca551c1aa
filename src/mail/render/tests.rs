//! Snapshots of every mail, and names that try to be more than names.

use std::time::Duration;

use uuid::Uuid;

use super::*;
use crate::mail::message::Sender;
use crate::mail::{Account, Notice};
use crate::policy::id::{AccountId, CredentialId};

const DAY: Duration = Duration::from_secs(86_400);
/// 3 January 2027, 14:05 UTC.
const EFFECTIVE: Timestamp = Timestamp(1_798_985_100_000_000);

fn before(days: u64) -> Timestamp {
    Timestamp(EFFECTIVE.0 - (DAY.as_micros() as i64) * days as i64)
}

fn used(scope: &str, days_before: u64) -> ScopeUse {
    ScopeUse { scope: scope.to_owned(), last_use: Some(before(days_before)) }
}

fn unused(scope: &str) -> ScopeUse {
    ScopeUse { scope: scope.to_owned(), last_use: None }
}

fn facts(subject: Subject) -> Facts {
    Facts {
        id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001),
        to: "ann@acme.example".to_owned(),
        date: before(7),
        account: Account { id: AccountId(Uuid::from_u128(2)), name: "Acme Ltd".to_owned() },
        notified: vec!["ann@acme.example".to_owned(), "bob@acme.example".to_owned()],
        subject,
    }
}

fn token(kind: TokenKind) -> Token {
    Token {
        id: TokenId(Uuid::from_u128(3)),
        name: "payroll".to_owned(),
        kind,
        created: before(400),
        last_use: Some(before(45)),
    }
}

fn deletion() -> Action {
    Action {
        token: token(TokenKind::ReadWrite),
        takes: Takes::Token,
        lost: vec![
            used("transactions.read", 200),
            used("payments.send", 45),
            unused("cards.reveal"),
            unused("cards.read"),
        ],
        kept: Vec::new(),
        last_use_of_lost: Some(before(45)),
        window: DAY * 45,
    }
}

fn writes() -> Action {
    let mut token = token(TokenKind::ReadWrite);
    token.last_use = Some(before(8));
    Action {
        token,
        takes: Takes::Writes,
        lost: vec![used("payments.send", 60), unused("cards.reveal")],
        kept: vec![used("transactions.read", 8), unused("cards.read")],
        last_use_of_lost: Some(before(60)),
        window: DAY * 45,
    }
}

fn some_scopes() -> Action {
    let mut token = token(TokenKind::Custom);
    token.last_use = Some(before(8));
    Action {
        token,
        takes: Takes::Scopes,
        lost: vec![unused("payments.send"), unused("cards.reveal")],
        kept: vec![used("transactions.read", 8)],
        last_use_of_lost: None,
        window: DAY * 45,
    }
}

fn notice(action: Action) -> Facts {
    facts(Subject::Notice(Notice { action, effective: EFFECTIVE }))
}

fn carried_out(action: Action) -> Facts {
    let mut facts = facts(Subject::CarriedOut { action, at: EFFECTIVE, noticed: Some(before(7)) });
    facts.date = EFFECTIVE;
    facts
}

fn expiry(kind: TokenKind, reached: bool) -> Facts {
    let scopes = match kind {
        TokenKind::Custom => vec!["payments.send".to_owned(), "cards.read".to_owned()],
        TokenKind::ReadOnly | TokenKind::ReadWrite => Vec::new(),
    };
    let token = token(kind);
    facts(Subject::Expiry(Expiry {
        token,
        scopes,
        at: EFFECTIVE,
        reached,
        replaced_by: None,
        longest: None,
    }))
}

/// On a server that bounds how long a token may last.
fn renewable(kind: TokenKind) -> Facts {
    let mut facts = expiry(kind, false);
    let Subject::Expiry(expiry) = &mut facts.subject else { panic!() };
    expiry.longest = Some(DAY * 90);
    facts
}

fn replaced(reached: bool) -> Facts {
    let mut facts = expiry(TokenKind::ReadOnly, reached);
    let Subject::Expiry(expiry) = &mut facts.subject else { panic!() };
    expiry.replaced_by = Some(TokenId(Uuid::from_u128(4)));
    facts
}

fn admins_changed(to: &str) -> Facts {
    let list = |names: &[&str]| names.iter().map(|name| format!("{name}@acme.example")).collect();
    let mut facts = facts(Subject::AdminsChanged {
        before: list(&["ann", "bob"]),
        after: list(&["ann", "cy"]),
        at: EFFECTIVE,
    });
    facts.notified = list(&["ann", "bob", "cy"]);
    facts.to = format!("{to}@acme.example");
    facts.date = EFFECTIVE;
    facts
}

fn leaked(owner: LeakedOwner, source: &str, url: &str) -> Facts {
    let (source, url) = (source.to_owned(), url.to_owned());
    let mut facts = facts(Subject::Leaked { owner, source, url, at: EFFECTIVE });
    facts.date = EFFECTIVE;
    facts
}

fn leaked_token() -> Facts {
    let url = "git.example/acme/pay/blob/0123456789abcdef0123456789abcdef01234567/deploy.sh";
    leaked(LeakedOwner::Token(token(TokenKind::ReadWrite)), "commit", url)
}

fn leaked_credential() -> Facts {
    let id = CredentialId(Uuid::from_u128(4));
    leaked(LeakedOwner::Credential { id, name: String::new() }, "", "")
}

/// What is sent: its headers as they go over the wire, then both parts as they are read.
fn shown(facts: &Facts) -> String {
    let page = "https://portcullis.example/".parse().unwrap();
    let message = render(facts, Some(&page)).unwrap();
    let sender: Sender = "Portcullis <portcullis@acme.example>".parse().unwrap();
    let wire = String::from_utf8(message.compose(&sender).unwrap().bytes).unwrap();
    let headers = wire.split("\r\n\r\n").next().unwrap().replace('\r', "");
    format!("{headers}\n\n{}\n{}", message.text, message.html)
}

macro_rules! snapshots {
    ($($name:ident: $facts:expr;)*) => { $(
        #[test]
        fn $name() {
            insta::assert_snapshot!(shown(&$facts));
        }
    )* };
}

snapshots! {
    a_token_will_be_deleted: notice(deletion());
    a_token_will_be_read_only: notice(writes());
    a_token_will_lose_scopes: notice(some_scopes());
    a_token_was_deleted: carried_out(deletion());
    a_token_became_read_only: carried_out(writes());
    a_token_lost_scopes: carried_out(some_scopes());
    a_token_expires: expiry(TokenKind::Custom, false);
    a_token_expires_that_can_be_replaced: renewable(TokenKind::Custom);
    a_token_expired: expiry(TokenKind::Custom, true);
    an_admin_is_told_of_others: admins_changed("ann");
    a_former_admin_is_told: admins_changed("bob");
    a_new_admin_is_told: admins_changed("cy");
    a_token_leaked: leaked_token();
    a_credential_leaked_somewhere: leaked_credential();
}

fn all() -> Vec<Facts> {
    let admins = ["ann", "bob", "cy"].map(admins_changed);
    [deletion(), writes(), some_scopes()]
        .into_iter()
        .flat_map(|action| [notice(action.clone()), carried_out(action)])
        .chain([false, true].map(|reached| expiry(TokenKind::ReadWrite, reached)))
        .chain([renewable(TokenKind::ReadWrite)])
        .chain(admins)
        .chain([leaked_token(), leaked_credential()])
        .collect()
}

#[test]
fn nothing_is_left_out_where_little_is_known() {
    let mut action = deletion();
    action.token.name = String::new();
    action.token.last_use = None;
    action.last_use_of_lost = None;
    action.lost = vec![unused("cards.read")];
    let mut facts = notice(action);
    facts.notified = vec![facts.to.clone()];
    let message = render(&facts, None).unwrap();
    let id = TokenId(Uuid::from_u128(3)).to_string();
    assert_eq!(
        message.subject,
        format!("[Portcullis] Token \"{id}\" will be deleted on 3 January 2027")
    );
    for text in [message.text.replace('\n', " "), message.html] {
        assert!(text.contains("Nobody else was notified."), "{text}");
        assert!(text.contains("since it was created on"), "{text}");
        assert!(!text.contains("https://"), "{text}");
    }
    assert!(message.text.contains("Last used:  never"), "{}", message.text);
    assert!(message.text.contains("1 scope:\n\n- never used: cards.read\n"), "{}", message.text);
}

#[test]
fn a_replaced_token_that_expires_names_its_successor() {
    let successor = TokenId(Uuid::from_u128(4)).to_string();
    for reached in [false, true] {
        let message = render(&replaced(reached), None).unwrap();
        for text in [message.text.replace('\n', " "), message.html] {
            assert!(text.contains(&format!("replaced by the token {successor}")), "{text}");
            assert!(text.contains("This one was last used on"), "{text}");
            assert!(!text.contains("token create") && !text.contains("token replace "), "{text}");
        }
    }
}

#[test]
fn an_unused_token_that_expires_says_so() {
    for reached in [false, true] {
        let mut facts = expiry(TokenKind::ReadOnly, reached);
        let Subject::Expiry(expiry) = &mut facts.subject else { panic!() };
        expiry.token.last_use = None;
        let message = render(&facts, None).unwrap();
        for text in [message.text.replace('\n', " "), message.html] {
            assert!(text.contains("No use of it is recorded."), "{text}");
            assert!(text.contains("3 January 2027, 14:05 UTC"), "{text}");
        }
    }
}

#[test]
fn a_name_like_an_option_is_a_name_in_the_command() {
    for (name, said) in [("payroll", "--name payroll --kind"), ("--kind", "--name='--kind' --kind")]
    {
        let mut action = deletion();
        action.token.name = name.to_owned();
        let facts = facts(Subject::CarriedOut { at: EFFECTIVE, noticed: Some(before(7)), action });
        let text = render(&facts, None).unwrap().text;
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn text_has_72_columns_but_for_what_is_copied() {
    for facts in all() {
        let message = render(&facts, None).unwrap();
        for line in message.text.lines() {
            assert!(line.chars().count() <= 72 || line.starts_with("    "), "{line}");
        }
        assert!(!message.text.contains("\n\n\n"), "{}", message.text);
    }
}

#[test]
fn html_brings_nothing_from_elsewhere() {
    for facts in all() {
        let html = render(&facts, None).unwrap().html;
        for bad in ["<img", "<script", "<link", "<style", "url(", "http", "background", ";color:"] {
            assert!(!html.contains(bad), "{bad} in {html}");
        }
    }
}

#[test]
fn a_name_is_only_a_name() {
    let evil = "x\r\nBcc: eve@evil.example\r\n\r\n<script>alert(1)</script>\u{202e}\"'; reboot #";
    for mut facts in all() {
        facts.account.name = evil.to_owned();
        facts.notified.push(evil.to_owned());
        match &mut facts.subject {
            Subject::Notice(Notice { action, .. }) | Subject::CarriedOut { action, .. } => {
                action.token.name = evil.to_owned();
                action.lost.push(unused(evil));
                action.kept.push(used(evil, 1));
            }
            Subject::Expiry(expiry) => {
                expiry.token.name = evil.to_owned();
                expiry.scopes.push(evil.to_owned());
            }
            Subject::AdminsChanged { before, after, .. } => {
                before.push(evil.to_owned());
                after.push("\n<b>".to_owned());
            }
            Subject::Leaked { owner, source, url, .. } => {
                (*source, *url) = (evil.to_owned(), evil.to_owned());
                match owner {
                    LeakedOwner::Token(token) => token.name = evil.to_owned(),
                    LeakedOwner::Credential { name, .. } => *name = evil.to_owned(),
                }
            }
        }
        let message = render(&facts, None).unwrap();
        assert!(!message.html.contains("<script") && !message.html.contains("<b>"));
        assert!(!message.text.lines().any(|line| line.starts_with("Bcc")), "{}", message.text);
        for text in [&message.subject, &message.text, &message.html] {
            assert!(!text.contains('\r') && !text.contains('\u{202e}'), "{text}");
        }
        for line in message.text.lines().filter(|line| line.contains("token create")) {
            assert!(line.contains(r#"</script><U+202E>"'\''; reboot #' --kind"#), "{line}");
        }
        let sender = "portcullis@acme.example".parse().unwrap();
        let wire = String::from_utf8(message.compose(&sender).unwrap().bytes).unwrap();
        let headers = wire.split("\r\n\r\n").next().unwrap();
        let names: Vec<_> = headers
            .split("\r\n")
            .filter(|line| !line.starts_with([' ', '\t']))
            .map(|line| line.split(':').next().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "Message-ID",
                "Date",
                "From",
                "To",
                "Subject",
                "Auto-Submitted",
                "MIME-Version",
                "Content-Type"
            ]
        );
    }
}

#[test]
fn long_names_are_cut_in_subjects_only() {
    let mut action = deletion();
    action.token.name = "n".repeat(200);
    let message = render(&notice(action), None).unwrap();
    assert!(message.subject.chars().count() < 130, "{}", message.subject);
    assert!(message.text.contains(&"n".repeat(200)));
}

#[test]
fn pages_have_one_slash() {
    let id = TokenId(Uuid::from_u128(3));
    for base in ["https://p.example", "https://p.example/"] {
        let page: PublicUrl = base.parse().unwrap();
        assert_eq!(page.token(id), format!("https://p.example/tokens/{id}"));
    }
    for (text, error) in [
        ("", InvalidPublicUrl::NoWebPage),
        ("p.example", InvalidPublicUrl::NoWebPage),
        ("https:p.example", InvalidPublicUrl::NoWebPage),
        ("https://p.exam\nple", InvalidPublicUrl::NoWebPage),
        ("https:\\\\p.example", InvalidPublicUrl::NoWebPage),
        ("ftp://p.example", InvalidPublicUrl::NoWebPage),
        ("https://u:p@p.example", InvalidPublicUrl::Login),
        ("https://u@p.example/x", InvalidPublicUrl::Login),
        ("https://p.example/pdp", InvalidPublicUrl::Path),
        ("http://localhost:8080/pdp/", InvalidPublicUrl::Path),
        ("https://p.example//", InvalidPublicUrl::Path),
        ("https://p.example?x", InvalidPublicUrl::Query),
        ("https://p.example/?", InvalidPublicUrl::Query),
        ("https://p.example/#", InvalidPublicUrl::Query),
    ] {
        assert_eq!(text.parse::<PublicUrl>(), Err(error), "{text}");
    }
}
