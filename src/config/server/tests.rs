//! The server's settings: defaults, and every fault.

use super::store::has_password;
use super::*;
use clap::Parser as _;

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    serve: ServeArgs,
}

fn resolve(flags: &[&str]) -> Result<ServeSettings, String> {
    let args = std::iter::once(&"serve").chain(flags);
    let command = Command::try_parse_from(args).map_err(|error| error.to_string())?;
    command.serve.resolve().map_err(|error| error.to_string())
}

#[test]
fn nothing_needs_to_be_configured() {
    let settings = resolve(&[]).unwrap();
    assert_eq!(settings.listen.to_string(), "127.0.0.1:50051");
    assert!(matches!(settings.store, StoreSettings::Embedded(_)));
    assert_eq!(settings.limits, Limits::default());
}

#[test]
fn every_fault_is_told_at_once() {
    let error = resolve(&[
        "--listen",
        "0.0.0.0:1",
        "--http-listen",
        "here",
        "--tls-key",
        "k",
        "--token-prefix",
        "NO",
        "--cache-capacity",
        "0",
        "--log-level",
        "loud",
        "--catalog",
        "/nonexistent",
        "--database-url",
        "postgres://u:pw@h/d",
    ])
    .unwrap_err();
    for part in [
        "8 settings are at fault",
        "--listen: other hosts reach 0.0.0.0",
        "--http-listen:",
        "--tls-cert and --tls-key",
        "--token-prefix:",
        "--cache-capacity:",
        "--log-level:",
        "--catalog:",
        "--database-url: has a password",
    ] {
        assert!(error.contains(part), "{part} is missing in:\n{error}");
    }
    assert!(!error.contains("pw@"), "{error}");
}

#[test]
fn passwords_are_seen_wherever_a_url_can_have_one() {
    for url in ["postgres://u:p@h/d", "postgres://h/d?password=p", "postgres://u:p@:x@h"] {
        assert!(has_password(url), "{url}");
    }
    for url in ["postgres://u@h:5432/d", "postgres://h/d", "postgres://h/a:b@c"] {
        assert!(!has_password(url), "{url}");
    }
}

#[test]
fn dev_stays_on_this_host() {
    let error = resolve(&["--dev", "--listen", "0.0.0.0:1", "--plaintext"]).unwrap_err();
    assert!(error.contains("loopback only"), "{error}");
    assert!(resolve(&["--dev", "--database-url", "postgres://h/d"]).is_err());
}
