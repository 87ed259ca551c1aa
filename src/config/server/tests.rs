//! The server's settings: defaults, and every error.

use super::store::has_password;
use super::*;
use crate::policy::destination::InternalHosts;
use crate::policy::lifecycle::{Mode, Settings};
use clap::Parser as _;
use std::time::Duration;

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
    assert_eq!(settings.listen, [ListenSetting::Tcp(vec!["127.0.0.1:50051".parse().unwrap()])]);
    assert!(matches!(settings.store, StoreSettings::Embedded(_)));
    assert_eq!(settings.limits, Limits::default());
}

/// What Kubernetes sets for a Service of the program's name is never read as a setting.
#[test]
fn no_setting_is_named_like_a_service_of_kubernetes() {
    for name in super::variables::all() {
        assert!(
            !name.starts_with("PORTCULLIS_PORT") && !name.starts_with("PORTCULLIS_SERVICE_"),
            "{name}"
        );
    }
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
        "8 settings are invalid",
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

#[test]
fn listener_takes_host_names_and_refuses_others() {
    let settings = resolve(&["--listen", "localhost:50051", "--http-listen", "[::1]:80"]).unwrap();
    let [ListenSetting::Tcp(addresses)] = &settings.listen[..] else { panic!("{settings:?}") };
    assert!(addresses.iter().all(|a| a.ip().is_loopback() && a.port() == 50051));
    assert!(addresses.is_sorted_by_key(SocketAddr::is_ipv6));
    assert_eq!(settings.http_listen, ["[::1]:80".parse().unwrap()]);
    for (text, part) in [
        ("localhost", "is not an address and a port"),
        ("localhost:", "is not an address and a port"),
        (":50051", "is not an address and a port"),
        ("::1:50051", "is not an address and a port"),
        ("localhost:66000", "is not an address and a port"),
        ("http://localhost:50051", "is not an address and a port"),
        ("no-such-host.invalid:50051", "can't be resolved"),
        ("0.0.0.0:1", "other hosts reach 0.0.0.0"),
    ] {
        let error = resolve(&["--listen", text]).unwrap_err();
        assert!(error.contains("--listen: ") && error.contains(part), "{text}: {error}");
    }
}

#[test]
fn a_unix_socket_stands_beside_an_address_and_needs_no_tls() {
    let flags = ["--listen", "127.0.0.1:1", "--listen", "unix:/p?mode=0660", "--dev"];
    let socket = ListenSetting::Unix { path: "/p".into(), mode: 0o660 };
    assert_eq!(resolve(&flags).unwrap().listen[1], socket);
    assert_eq!(resolve(&["--listen", "unix:/a,unix:/p?mode=0660"]).unwrap().listen[1], socket);
    let error = resolve(&["--listen", "unix:/p", "--listen", "0.0.0.0:1"]).unwrap_err();
    assert!(error.contains("--listen: other hosts reach 0.0.0.0"), "{error}");
}

/// Rules 8.12, 9.11 and 9.15 of docs/policy.md.
#[test]
fn gateways_are_served_where_it_is_said_and_with_dev() {
    assert_eq!(resolve(&[]).unwrap().gateway.listen, []);
    let development = resolve(&["--dev"]).unwrap().gateway;
    let own = ListenSetting::Tcp(vec!["127.0.0.1:8081".parse().unwrap()]);
    assert_eq!(development.listen, [own]);
    assert_eq!(development.override_headers, OVERRIDE_HEADERS);
    assert_eq!(development.check_timeout, Duration::from_millis(160));
    let flags = ["--gateway-listen", "[::1]:1", "--gateway-url", " HTTPS://PDP.example:443/ "];
    let gateway = resolve(&flags).unwrap().gateway;
    assert_eq!(gateway.listen, [ListenSetting::Tcp(vec!["[::1]:1".parse().unwrap()])]);
    assert_eq!(gateway.url.as_deref(), Some("https://pdp.example"));
    let flags = ["--gateway-listen", "unix:/p,127.0.0.1:1"];
    let gateway = resolve(&flags).unwrap().gateway;
    let socket = ListenSetting::Unix { path: "/p".into(), mode: 0o600 };
    let address = ListenSetting::Tcp(vec!["127.0.0.1:1".parse().unwrap()]);
    assert_eq!(gateway.listen, [socket, address]);
    for (flag, value, part) in [
        ("--gateway-listen", "0.0.0.0:1", "other hosts reach 0.0.0.0"),
        ("--gateway-listen", "8081", "is not an address and a port"),
        ("--gateway-listen", "unix:p", "--gateway-listen: \"unix:p\" is no Unix socket"),
        ("--gateway-listen", "unix:/p,unix:/p", "is named twice"),
        ("--gateway-url", "pdp.example", "write https:// and a host"),
        ("--gateway-url", "ftp://pdp.example", "write https:// and a host"),
        ("--gateway-url", "https://u@pdp.example", "write https:// and a host"),
        ("--gateway-url", "https://pdp.example/pdp", "write https:// and a host"),
        ("--gateway-url", "https://pdp.example?a", "write https:// and a host"),
        ("--override-header", "X_Method", "write the name with -"),
        ("--override-header", "a b", "is no header's name"),
        (
            "--override-header",
            "Authorization",
            "clients use for something else: name another header",
        ),
        ("--override-header", "x-api-key", "clients use for something else: name another header"),
        ("--override-header", "X-Forwarded-For", "clients use for something else: name another"),
        (
            "--override-header",
            "Host",
            "for its own connection: name another header, such as X-HTTP",
        ),
        ("--override-header", "X-A,Content-Type", "is content-type, which describes the body"),
        ("--check-timeout", "6s", "is longer than 5s"),
        ("--check-timeout", "fast", "--check-timeout: "),
    ] {
        let error = resolve(&[flag, value]).unwrap_err();
        assert!(error.contains(flag) && error.contains(part), "{value}: {error}");
    }
    let named = resolve(&["--override-header", "X-A,X-B", "--override-header", "X-C-Url"]).unwrap();
    assert_eq!(named.gateway.override_headers, ["X-A", "X-B", "X-C-Url"]);
}

#[test]
fn lifecycle_and_mail_have_defaults() {
    let settings = resolve(&[]).unwrap();
    let seconds = Duration::from_secs;
    let day = seconds(86_400);
    assert_eq!(
        settings.lifecycle,
        LifecycleSettings {
            rules: Settings::new(Mode::Enforce, day * 45, day * 7).unwrap(),
            sweep_interval: seconds(60),
            deleted_retention: day * 90,
            audit_retention: None,
            token_max_lifetime: None,
            usage_flush_interval: seconds(1),
        }
    );
    let mail = settings.mail;
    assert!(mail.relay.is_none() && mail.public_url.is_none());
    assert_eq!(mail.timeout, seconds(30));
    assert_eq!((mail.retry_initial, mail.retry_max), (seconds(1), seconds(900)));
    assert_eq!((mail.refused_retry, mail.rate.get()), (day, 5));
}

#[test]
fn a_lifecycle_can_be_tried_in_seconds() {
    let flags = ["--lifecycle-window", "3s", "--lifecycle-notice", "500ms", "--lifecycle-mode"];
    let settings = resolve(&[&flags[..], &["observe"]].concat()).unwrap().lifecycle;
    let (window, notice) = (Duration::from_secs(3), Duration::from_millis(500));
    assert_eq!(settings.rules, Settings::new(Mode::Observe, window, notice).unwrap());
}

#[test]
fn sessions_last_a_week_at_most() {
    let page = |flags: &[&str]| resolve(flags).map(|settings| settings.page);
    let default = page(&[]).unwrap();
    let minute = Duration::from_secs(60);
    assert_eq!((default.session_idle, default.session_lifetime), (30 * minute, 480 * minute));
    assert!(page(&["--session-idle", "7d", "--session-lifetime", "7d"]).is_ok());
    let error = page(&["--session-idle", "0s", "--session-lifetime", "8d"]).unwrap_err();
    assert!(error.contains("--session-idle: \"0s\" is no time at all"), "{error}");
    assert!(error.contains("--session-lifetime: 8d is longer than 7d"), "{error}");
}

/// Rules 9.6 and 9.8 of docs/policy.md.
#[test]
fn trusted_proxies_are_within_the_limits_of_whitelist_entries() {
    let proxies = |flags: &[&str]| {
        let settings = resolve(flags)?;
        let entries = settings.page.trusted_proxies.entries().map(ToString::to_string);
        Ok::<_, String>(entries.collect::<Vec<_>>())
    };
    assert_eq!(proxies(&[]).unwrap(), Vec::<String>::new());
    let flags = ["--trusted-proxy", "192.0.2.1,10.0.0.0/8", "--trusted-proxy", "2001:db8::/32"];
    assert_eq!(proxies(&flags).unwrap(), ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"]);
    let flags = ["--trusted-proxy", "0.0.0.0/0,proxy", "--trusted-proxy", "", "--lease", "0s"];
    let error = proxies(&flags).unwrap_err();
    for part in [
        "--trusted-proxy: 0.0.0.0/0 allows every address",
        "--trusted-proxy: “proxy” is a host name",
        "--trusted-proxy: an entry is empty",
        "--lease:",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let flags = ["--trusted-proxy", "10.0.0.0/8", "--whitelist-widest-ipv4", "16"];
    assert!(proxies(&flags).unwrap_err().contains("10.0.0.0/8 is wider than an IPv4 /16"));
}

#[test]
fn a_lease_is_shorter_than_the_notice() {
    let lease = |flags: &[&str]| resolve(flags).map(|settings| settings.lease);
    let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
    let quick = ["--lifecycle-window", "3s", "--lifecycle-notice", "500ms"];
    assert_eq!(lease(&[]).unwrap(), seconds(10));
    assert_eq!(lease(&quick).unwrap(), millis(250));
    assert_eq!(lease(&["--lease", "1h"]).unwrap(), seconds(3_600));
    for (flags, part) in [
        (&["--lease", "99ms"][..], "--lease: 99ms is not from 100ms to 1h"),
        (&["--lease", "2h"], "--lease: 2h is not from 100ms to 1h"),
        (&["--lease", "10"], "--lease: \"10\" has no unit"),
        (
            &["--lease", "10s", "--lifecycle-window", "20s", "--lifecycle-notice", "10s"],
            "--lease: 10s is not less than --lifecycle-notice",
        ),
        (
            &["--lifecycle-notice", "150ms", "--database-url", "postgres://u@h/d"],
            "--lifecycle-notice: is too short for a lease of 100ms",
        ),
    ] {
        let error = lease(flags).unwrap_err();
        assert!(error.contains(part), "{part} is missing in:\n{error}");
    }
    assert!(lease(&["--lifecycle-notice", "150ms"]).is_ok(), "nobody shares an embedded store");
}

#[test]
fn a_kill_loses_little_use() {
    assert!(resolve(&["--usage-flush-interval", "1m"]).is_ok());
    let error = resolve(&["--usage-flush-interval", "61s"]).unwrap_err();
    assert!(error.contains("--usage-flush-interval: 61s is longer than 1m"), "{error}");
}

#[test]
fn every_fault_of_lifecycle_and_mail_is_told_at_once() {
    let flags = "--lifecycle-mode lax --lifecycle-window 7d --lifecycle-notice 7d \
                 --lifecycle-sweep-interval 0s --deleted-retention 90 --usage-flush-interval 1x \
                 --mail-timeout 0s --mail-retry-initial 1h --mail-retry-max 1m --mail-refused-retry 0d \
                 --mail-rate 0 --public-url example.com --mail-from nobody --smtp-ca /nonexistent";
    let error = resolve(&flags.split_whitespace().collect::<Vec<_>>()).unwrap_err();
    for part in [
        "13 settings are invalid",
        "--lifecycle-mode: \"lax\" is not enforce or observe",
        "--lifecycle-notice: 7d is not less than --lifecycle-window, 7d",
        "--lifecycle-sweep-interval: \"0s\" is no time at all",
        "--deleted-retention: \"90\" has no unit",
        "--usage-flush-interval: \"1x\" `x` is not a unit",
        "--mail-timeout: \"0s\" is no time at all",
        "--mail-retry-initial: 1h is more than --mail-retry-max, 1m",
        "--mail-refused-retry: \"0d\" is no time at all",
        "--mail-rate: 0 is not a whole number",
        "--public-url: \"example.com\" is no base for links",
        "--mail-from: \"nobody\" is no mail address",
        "--mail-from: goes with a relay: name it in PORTCULLIS_SMTP_URL",
        "--smtp-ca: cannot read /nonexistent",
    ] {
        assert!(error.contains(part), "{part} is missing in:\n{error}");
    }
}

/// The page's links, redirects and cookies begin at the root of a host.
#[test]
fn a_public_url_is_the_root_of_a_host() {
    for good in ["https://p.example", "https://p.example/", "http://127.0.0.1:8080"] {
        assert!(resolve(&["--public-url", good]).is_ok(), "{good}");
    }
    for (bad, part) in [
        ("https://p.example/portcullis", "has a path, and the page belongs at the root"),
        ("https://p.example/portcullis/", "give it a host name of its own"),
        ("https://p.example/?a=b", "has a query or a fragment: leave out"),
        ("https://p.example/#a", "has a query or a fragment: leave out"),
        ("https://user:hunter2@p.example", "has a user name or a password: leave out"),
        ("ftp://p.example", "write https:// and a host"),
    ] {
        let error = resolve(&["--public-url", bad]).unwrap_err();
        assert!(error.contains("--public-url: ") && error.contains(part), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

/// The mail settings with a relay in the environment.
fn with_relay(url: &str, flags: &[&str]) -> Result<MailSettings, String> {
    let args = std::iter::once(&"serve").chain(flags);
    let args = Command::try_parse_from(args).unwrap().serve.mail;
    let mut errors = ConfigErrors::default();
    let settings = args.resolve_with(Some(url.to_owned().into()), &mut errors);
    errors.into_result(|| settings).map_err(|error| error.to_string())
}

#[test]
fn a_relay_needs_a_sender_and_shows_no_password() {
    let from = &["--mail-from", "Portcullis <portcullis@acme.example>"];
    let settings = with_relay("smtp+starttls://u:hunter2@mail.example", from).unwrap();
    let shown = format!("{settings:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let relay = settings.relay.unwrap();
    assert_eq!(relay.endpoint.to_string(), "mail.example:587");
    assert_eq!(relay.sender.to_string(), "Portcullis <portcullis@acme.example>");

    let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for (url, flags, part) in [
        ("smtp://mail.example", &[][..], "--mail-from: is missing"),
        ("smtp://u:hunter2@mail.example", from, "PORTCULLIS_SMTP_URL: would send its password"),
        ("http://u:hunter2@mail.example", from, "PORTCULLIS_SMTP_URL: must be smtp://"),
        ("smtp://mail.example", &["--mail-from", "a@b", "--smtp-ca", ca], "shows no certificate"),
        ("smtps://mail.example", &["--mail-from", "a@b", "--smtp-ca", ca], "no PEM certificate"),
    ] {
        let error = with_relay(url, flags).unwrap_err();
        assert!(error.contains(part) && !error.contains("hunter2"), "{error}");
    }
}

/// Rule 14.10 of docs/policy.md.
#[test]
fn webhooks_reach_public_addresses_within_20s_unless_settings_say_otherwise() {
    let settings = resolve(&[]).unwrap().webhooks;
    assert_eq!(settings.internal, InternalHosts::default());
    assert_eq!(settings.timeout, Duration::from_secs(20));
    assert_eq!(settings.retry_initial, Duration::from_secs(5));
    assert_eq!(settings.retry_max, Duration::from_secs(3_600));
    assert_eq!(settings.give_up, Duration::from_secs(3 * 86_400));
    let named = resolve(&["--webhook-internal", "hooks.internal,10.1.0.0/16"]).unwrap();
    let wanted = InternalHosts::parse(["hooks.internal", "10.1.0.0/16"]).unwrap();
    assert_eq!(named.webhooks.internal, wanted);
}

#[test]
fn every_fault_of_webhooks_is_told_at_once() {
    let flags = "--webhook-internal 10.0.0.1/33,127.1 --webhook-timeout 31s --webhook-give-up 0d \
                 --webhook-retry-initial 2h --webhook-ca /nonexistent";
    let error = resolve(&flags.split_whitespace().collect::<Vec<_>>()).unwrap_err();
    for part in [
        "--webhook-internal: 10.0.0.1/33",
        "--webhook-internal: \"127.1\" is no host name, address or range",
        "--webhook-timeout: 31s is not from 1s to 30s",
        "--webhook-give-up: \"0d\" is no time at all",
        "--webhook-retry-initial: 2h is more than --webhook-retry-max, 1h",
        "--webhook-ca: cannot read /nonexistent",
    ] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
}

/// The bounds that the help of a flag names, "from 1 to 32", "at least 1s" or "at most 7d".
fn documented_bounds(help: &str) -> [Option<&str>; 2] {
    let after = |words: &str| {
        let value = help.split_once(words)?.1.split([' ', ',', ';', ':', '.']).next()?;
        value.starts_with(|first: char| first.is_ascii_digit()).then_some(value)
    };
    let range =
        after("from ").and_then(|least| Some((least, after(&format!("from {least} to "))?)));
    match range {
        Some((least, most)) => [Some(least), Some(most)],
        None => [after("at least "), after("at most ")],
    }
}

#[test]
fn documented_bounds_are_those_that_are_enforced() {
    let duration = |text: &str| crate::policy::duration::parse(text).unwrap();
    let step = Duration::from_millis(1);
    let is_refused = |flag: &str, value: &str| {
        let error = resolve(&[&format!("--{flag}"), value]).err().unwrap_or_default();
        error.contains(&format!("--{flag}: "))
    };
    let command = <ServeArgs as clap::Args>::augment_args(clap::Command::new("serve"));
    let mut checked = 0;
    for arg in command.get_arguments() {
        let Some(unit) = arg.get_value_names().map(|names| names[0].as_str()) else { continue };
        let (flag, help) = (arg.get_long().unwrap(), arg.get_help().unwrap().to_string());
        let [least, most] = documented_bounds(&help);
        let beyond = |value: &str, up: bool| match unit {
            "DURATION" if up => format!("{}ms", (duration(value) + step).as_millis()),
            "DURATION" => format!("{}ms", (duration(value) - step).as_millis()),
            _ if up => (value.parse::<u64>().unwrap() + 1).to_string(),
            _ => (value.parse::<u64>().unwrap() - 1).to_string(),
        };
        match unit {
            "COUNT" | "LENGTH" => assert!(least.is_some() && most.is_some(), "--{flag}: {help}"),
            "DURATION" => assert_eq!(is_refused(flag, "0s"), !help.contains("0s for"), "--{flag}"),
            _ => assert_eq!([least, most], [None, None], "--{flag}: {help}"),
        }
        for (bound, up) in [(least, false), (most, true)] {
            let Some(bound) = bound else { continue };
            assert!(!is_refused(flag, bound), "--{flag} {bound}");
            assert!(is_refused(flag, &beyond(bound, up)), "--{flag} {}", beyond(bound, up));
            checked += 1;
        }
    }
    assert!(checked >= 20, "{checked}");
}

#[test]
fn every_variable_is_documented() {
    let documented = include_str!("../../../docs/configuration.md");
    for name in super::variables::all() {
        assert!(documented.contains(&format!("`{name}`")), "{name}");
    }
}
