//! Answers as JSON, by the descriptors: field names as in the `.proto` files, enums by name, times
//! in RFC 3339, and every field always there: empty, or `null` where a message or an `optional`
//! field is absent.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, SerializeOptions};
use serde_json::Value;

use crate::grpc::proto;

/// A message of `portcullis.v1` with its name there.
pub(super) trait Named: Message {
    /// The name in the `.proto` file, without the package.
    const NAME: &'static str;
}

macro_rules! named {
    ($($name:ident),+ $(,)?) => {
        $(impl Named for proto::$name {
            const NAME: &'static str = stringify!($name);
        })+

        /// The names above, which must all be in the descriptors.
        #[cfg(test)]
        const NAMES: &[&str] = &[$(stringify!($name)),+];
    };
}

named!(
    AuthorizeResponse,
    ApplyCatalogResponse,
    CloseAccountResponse,
    CreateAccountResponse,
    CreateCredentialResponse,
    CreateTokenResponse,
    DeleteTokenResponse,
    GetSelfResponse,
    ReportLeakedTokensResponse,
    RevokeSelfResponse,
    SetTokenExpiryResponse,
    GetAccountResponse,
    GetCatalogResponse,
    GetTokenResponse,
    GetTokenUsageResponse,
    ListAccountsResponse,
    ListAuditEventsResponse,
    ListCredentialsResponse,
    ListDenialsResponse,
    ListPendingActionsResponse,
    ListTokensResponse,
    ManageWhitelistResponse,
    PreviewLifecycleResponse,
    ReplaceTokenResponse,
    ResumeAccountResponse,
    RevokeCredentialResponse,
    RotateSecretKeyResponse,
    SetAccountAdminsResponse,
    CreateWebhookResponse,
    DeleteWebhookResponse,
    GetWebhookResponse,
    ListWebhooksResponse,
    RotateWebhookSecretResponse,
    TestWebhookResponse,
    UpdateWebhookResponse,
    SuspendAccountResponse,
    UpdateAccountResponse,
    UpdateCredentialResponse,
    UpdateTokenResponse,
);

/// Embedded at build time.
static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(proto::DESCRIPTORS).ok());

/// The message as JSON; `None` only if the embedded descriptors do not describe it, which a test
/// rules out.
pub(super) fn value<M: Named>(message: &M) -> Option<Value> {
    let descriptor = POOL.as_ref()?.get_message_by_name(&format!("portcullis.v1.{}", M::NAME))?;
    let dynamic =
        DynamicMessage::decode(descriptor.clone(), message.encode_to_vec().as_slice()).ok()?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(false)
        .stringify_64_bit_integers(false);
    let mut value = dynamic.serialize_with_options(serde_json::value::Serializer, &options).ok()?;
    fill_absent(&descriptor, &mut value);
    Some(value)
}

/// Adds `null` for each field that reflection leaves out because it is absent.
fn fill_absent(descriptor: &MessageDescriptor, value: &mut Value) {
    // A well-known type, such as a time, is not an object.
    let Value::Object(object) = value else { return };
    for field in descriptor.fields() {
        let entry = object.entry(field.name()).or_insert(Value::Null);
        if let Kind::Message(inner) = field.kind() {
            match entry {
                Value::Array(items) => items.iter_mut().for_each(|item| fill_absent(&inner, item)),
                entry => fill_absent(&inner, entry),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::Timestamp;
    use serde_json::json;

    #[test]
    fn every_message_is_described() {
        for name in NAMES {
            let name = format!("portcullis.v1.{name}");
            assert!(POOL.as_ref().unwrap().get_message_by_name(&name).is_some(), "{name}");
        }
    }

    #[test]
    fn fields_are_always_there_under_their_proto_names() {
        let response = proto::ListAuditEventsResponse {
            audit_events: vec![proto::AuditEvent {
                revision: 9_007_199_254_740_993,
                time: Some(Timestamp { seconds: 1_769_860_800, nanos: 500_000_000 }),
                action: "token.create".to_owned(),
                ..Default::default()
            }],
            next_page_token: String::new(),
            chain: None,
        };
        assert_eq!(
            value(&response).unwrap(),
            json!({
                "audit_events": [{
                    "revision": 9_007_199_254_740_993_u64,
                    "time": "2026-01-31T12:00:00.500Z",
                    "action": "token.create",
                    "actor": "",
                    "actor_role": "",
                    "client_address": "",
                    "account_id": "",
                    "token_id": "",
                    "before_json": "",
                    "after_json": "",
                    "hash": "",
                }],
                "next_page_token": "",
                "chain": null,
            })
        );
    }

    #[test]
    fn enums_go_by_name_and_absent_messages_are_null() {
        let token = proto::Token {
            kind: proto::TokenKind::ReadOnly.into(),
            pending_actions: vec![proto::PendingAction::default()],
            ..Default::default()
        };
        let created =
            proto::CreateTokenResponse { token: Some(token), secret: "s".to_owned(), revision: 7 };
        let value = value(&created).unwrap();
        assert_eq!(value["revision"], 7);
        assert_eq!(value["secret"], "s");
        let token = &value["token"];
        assert_eq!(token["kind"], "TOKEN_KIND_READ_ONLY");
        assert_eq!(token["state"], "TOKEN_STATE_UNSPECIFIED");
        assert_eq!(token["whitelist"], json!([]));
        assert_eq!(token["whitelist_version"], 0);
        assert!(token.as_object().unwrap().contains_key("last_use_time"));
        assert_eq!(token["last_use_time"], Value::Null);
        assert_eq!(token["pending_actions"][0]["effective_time"], Value::Null);
        assert_eq!(
            self::value(&proto::GetTokenResponse::default()).unwrap(),
            json!({ "token": null })
        );
    }
}
