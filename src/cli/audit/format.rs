//! An audit event as a line: our own JSON, or a format that tools for security events read.

use clap::ValueEnum;
use serde_json::{Value, json};

use super::export::{event_line, time_of};
use crate::cli::failure::Failure;
use crate::cli::proto;

/// The format in which events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ExportFormat {
    /// Our own, which `audit verify` reads.
    Json,
    /// API Activity (class 6003) of the Open Cybersecurity Schema Framework 1.3.
    Ocsf,
    /// Common Event Format, version 0.
    Cef,
}

/// One event, without an end of line.
pub(super) fn line(format: ExportFormat, event: &proto::AuditEvent) -> Result<String, Failure> {
    let text = match format {
        ExportFormat::Json if event.hash.is_empty() => Ok(unsealed(event).to_string()),
        ExportFormat::Json => serde_json::to_string(&event_line(event)?),
        ExportFormat::Ocsf => Ok(ocsf(event).to_string()),
        ExportFormat::Cef => Ok(cef(event)),
    };
    text.map_err(|error| Failure::Output(error.into()))
}

/// As account admins see it: no part of a chain.
fn unsealed(event: &proto::AuditEvent) -> Value {
    json!({
        "time": time_of(event).to_rfc_3339(),
        "action": event.action,
        "actor": event.actor,
        "actor_role": event.actor_role,
        "client_address": event.client_address,
        "account_id": event.account_id,
        "token_id": event.token_id,
        "before_json": event.before_json,
        "after_json": event.after_json,
    })
}

/// `activity_id` and its name: 1 create, 3 update, 4 delete, 99 other.
fn activity(action: &str) -> (u32, &'static str) {
    match action.rsplit('.').next().unwrap_or_default() {
        "create" | "import" => (1, "Create"),
        "delete" | "purge" | "prune" | "close" | "end" | "expire" => (4, "Delete"),
        action if action.starts_with("revoke") => (4, "Delete"),
        "update" | "apply" | "change" | "replace" | "rotate" | "suspend" | "resume"
        | "downgrade" => (3, "Update"),
        action if action.starts_with("set_") => (3, "Update"),
        _ => (99, "Other"),
    }
}

/// A change because of a leaked secret: somebody must look at it.
fn is_of_leak(action: &str) -> bool {
    action.ends_with("_leaked")
}

fn ocsf(event: &proto::AuditEvent) -> Value {
    const CLASS: u32 = 6003;
    let (activity_id, activity_name) = activity(&event.action);
    let (severity_id, severity) =
        if is_of_leak(&event.action) { (4, "High") } else { (1, "Informational") };
    let named = [("account", &event.account_id), ("token", &event.token_id)];
    let resources: Vec<Value> = named
        .into_iter()
        .filter(|(_, id)| !id.is_empty())
        .map(|(kind, id)| json!({ "type": kind, "uid": id }))
        .collect();
    let object = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    // `src_endpoint` is required and must not be empty; a change without an address is of the server itself.
    let source = match event.client_address.as_str() {
        "" => json!({ "name": "portcullis" }),
        address => json!({ "ip": address }),
    };
    json!({
        "category_uid": 6,
        "category_name": "Application Activity",
        "class_uid": CLASS,
        "class_name": "API Activity",
        "activity_id": activity_id,
        "activity_name": activity_name,
        "type_uid": CLASS * 100 + activity_id,
        "severity_id": severity_id,
        "severity": severity,
        "status_id": 1,
        "status": "Success",
        "time": time_of(event).0.div_euclid(1_000),
        "metadata": {
            "version": "1.3.0",
            "product": {
                "name": "Portcullis",
                "vendor_name": "Portcullis",
                "version": env!("CARGO_PKG_VERSION"),
            },
            "uid": event.hash,
            "sequence": event.revision,
        },
        "actor": { "user": { "uid": event.actor, "type": event.actor_role } },
        "api": { "operation": event.action, "service": { "name": "portcullis" } },
        "src_endpoint": source,
        "resources": resources,
        "unmapped": { "before": object(&event.before_json), "after": object(&event.after_json) },
    })
}

fn cef(event: &proto::AuditEvent) -> String {
    let severity = if is_of_leak(&event.action) { 8 } else { 3 };
    let action = header(&event.action);
    let mut text = format!(
        "CEF:0|Portcullis|Portcullis|{}|{action}|{action}|{severity}|rt={}",
        env!("CARGO_PKG_VERSION"),
        time_of(event).0.div_euclid(1_000)
    );
    let revision = if event.revision == 0 { String::new() } else { event.revision.to_string() };
    // An IPv6 address has a key of its own.
    let (source, label) = match event.client_address.contains(':') {
        true => ("c6a2", Some("Source IPv6 Address")),
        false => ("src", None),
    };
    for (key, label, value) in [
        ("externalId", None, &revision),
        ("suid", None, &event.actor),
        ("spriv", None, &event.actor_role),
        (source, label, &event.client_address),
        ("cs1", Some("account"), &event.account_id),
        ("cs2", Some("token"), &event.token_id),
        ("cs3", Some("before"), &event.before_json),
        ("cs4", Some("after"), &event.after_json),
        ("cs5", Some("hash"), &event.hash),
    ] {
        if value.is_empty() {
            continue;
        }
        text.push_str(&format!(" {key}={}", extension(value)));
        if let Some(label) = label {
            text.push_str(&format!(" {key}Label={label}"));
        }
    }
    text
}

/// Escaped for the part of a CEF line that `|` separates.
fn header(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace(['\n', '\r'], " ")
}

/// Escaped for the value of a CEF extension.
fn extension(text: &str) -> String {
    text.replace('\\', "\\\\").replace('=', "\\=").replace('\n', "\\n").replace('\r', "\\r")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> proto::AuditEvent {
        proto::AuditEvent {
            revision: 7,
            time: Some(prost_types::Timestamp { seconds: 1_769_860_800, nanos: 500_000_000 }),
            action: "token.update".to_owned(),
            actor: "crd_1".to_owned(),
            actor_role: "operator".to_owned(),
            client_address: "192.0.2.7".to_owned(),
            token_id: "tok_1".to_owned(),
            after_json: r#"{"name":"a=b|c\n"}"#.to_owned(),
            hash: "0".repeat(64),
            ..Default::default()
        }
    }

    #[test]
    fn ocsf_has_what_the_class_requires() {
        let shown = ocsf(&event());
        assert_eq!(shown["class_uid"], 6003);
        assert_eq!(shown["type_uid"], 600_303);
        assert_eq!(shown["time"], 1_769_860_800_500_i64);
        assert_eq!(shown["actor"]["user"]["uid"], "crd_1");
        assert_eq!(shown["api"]["operation"], "token.update");
        assert_eq!(shown["src_endpoint"], json!({ "ip": "192.0.2.7" }));
        assert_eq!(shown["resources"], json!([{ "type": "token", "uid": "tok_1" }]));
        assert_eq!(shown["unmapped"]["after"]["name"], "a=b|c\n");
        let system = proto::AuditEvent { client_address: String::new(), ..event() };
        assert_eq!(ocsf(&system)["src_endpoint"], json!({ "name": "portcullis" }));
    }

    #[test]
    fn cef_escapes_what_would_end_a_value() {
        let zeros = "0".repeat(64);
        assert_eq!(
            cef(&event()),
            format!(
                "CEF:0|Portcullis|Portcullis|{}|token.update|token.update|3|rt=1769860800500 \
                 externalId=7 suid=crd_1 spriv=operator src=192.0.2.7 cs2=tok_1 cs2Label=token \
                 cs4={{\"name\":\"a\\=b|c\\\\n\"}} cs4Label=after cs5={zeros} cs5Label=hash",
                env!("CARGO_PKG_VERSION")
            )
        );
        assert_eq!(header("a|b\\"), "a\\|b\\\\");
    }

    #[test]
    fn every_kind_of_change_has_an_activity() {
        for (action, id) in [
            ("token.create", 1),
            ("account.set_admins", 3),
            ("token.revoke_leaked", 4),
            ("lifecycle.downgrade", 3),
            ("lifecycle.delete", 4),
            ("lifecycle.announce", 99),
        ] {
            assert_eq!(activity(action).0, id, "{action}");
        }
    }
}
