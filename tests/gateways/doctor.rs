//! `portcullis doctor gateway` finds what a wrong configuration of nginx lets through, and nothing in the shipped one.

use std::collections::BTreeSet;

use serde_json::Value;

use super::process::{Backends, Changes, Gateway, Kind, address};
use super::stage::Stage;
use crate::support::command::{Answer, Shell};

/// The stage, a gateway's backends with the doctor in place of the service, and the token.
async fn prepared() -> (Stage, Backends) {
    let stage = Stage::new().await;
    let (_, credential) = stage.credential(Kind::Nginx.client_source());
    let backends = Backends { upstream: address(9000), ..stage.backends(&credential) };
    (stage, backends)
}

fn examine(gateway: &Gateway, token: &str, backends: &Backends) -> Answer {
    let url = format!("http://{}/api/v1/accounts", gateway.address());
    let echo = backends.upstream.to_string();
    let shell = Shell::new().env("PORTCULLIS_TOKEN", token);
    shell.run(&["doctor", "gateway", &url, "--echo", &echo, "--output", "json"])
}

/// What failed, by what was sent; of checks that send no header, their names.
fn failed(report: &Value) -> BTreeSet<String> {
    let checks = report["checks"].as_array().expect("checks");
    let failed = checks.iter().filter(|check| check["result"] == "fail");
    let what = failed.map(|check| match check["sent"].as_str().expect("text") {
        "" => check["check"].as_str().expect("text").to_owned(),
        sent => sent.split(',').next().unwrap_or_default().to_owned(),
    });
    what.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_configuration_passes() {
    let (stage, backends) = prepared().await;
    let gateway = Gateway::start(Kind::Nginx, &backends);
    let answer = examine(&gateway, stage.token("read"), &backends);
    let report: Value = serde_json::from_str(&answer.stdout).unwrap_or_else(|_| panic!("{answer}"));
    assert_eq!(failed(&report), BTreeSet::new(), "{answer}");
    assert_eq!(report["passed"], true);
    assert!(report["checks"].as_array().expect("checks").len() > 100, "{answer}");
    assert!(!answer.printed().contains(stage.token("read")), "the token is printed");
    answer.exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_a_wrong_configuration_passes_on_are_found() {
    let (stage, backends) = prepared().await;
    let changes = Changes {
        replaced: &[
            ("proxy_set_header Portcullis-Token-Id $portcullis_token_id;", ""),
            (
                "proxy_set_header X-Forwarded-For $remote_addr;\n            proxy_set_header X-Forwarded-Host",
                "proxy_set_header X-Forwarded-Host",
            ),
        ],
        ..Changes::default()
    };
    let gateway = Gateway::start_with(Kind::Nginx, &backends, changes);
    let answer = examine(&gateway, stage.token("read"), &backends).exits(1);
    let report: Value = serde_json::from_str(&answer.stdout).expect("JSON");
    let failed = failed(&report);
    for part in ["Portcullis-Token-Id: forged-by-portcullis-doctor", "X-Forwarded-For: 192.0.2.77"]
    {
        assert!(failed.contains(part), "{part} is not among {failed:?}");
    }
    assert!(!failed.contains("Portcullis-Scope: forged-by-portcullis-doctor"), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_does_not_ask_is_found() {
    let (stage, backends) = prepared().await;
    let changes = Changes { unguarded: true, ..Changes::default() };
    let gateway = Gateway::start_with(Kind::Nginx, &backends, changes);
    let answer = examine(&gateway, stage.token("read"), &backends).exits(1);
    let report: Value = serde_json::from_str(&answer.stdout).expect("JSON");
    let failed = failed(&report);
    // Two tokens are refused by nginx itself.
    for check in ["no token", "an unknown token"] {
        assert!(failed.contains(check), "{check} is not among {failed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_checked_is_no_success() {
    let (stage, backends) = prepared().await;
    let gateway = Gateway::start(Kind::Nginx, &backends);
    let denied = examine(&gateway, stage.token("deleted"), &backends);
    denied.exits(2).tells(&["401 TOKEN_DELETED", "must be allowed"]);
    // The route leads elsewhere than to the doctor.
    let elsewhere = Backends { upstream: address(9000), ..backends.clone() };
    let lost = examine(&gateway, stage.token("read"), &elsewhere);
    lost.exits(2).tells(&["nothing reached", "--echo"]);
    let taken = Backends { upstream: gateway.address(), ..backends };
    examine(&gateway, stage.token("read"), &taken).exits(2).tells(&["can't be listened on"]);
}
