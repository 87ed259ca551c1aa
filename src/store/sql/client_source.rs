//! How a credential's client source is written: a JSON object with a member for each field that has a value.

use serde_json::{Value, json};

use crate::policy::client_source::{ClientSource, HeaderName, TrustedProxies};
use crate::store::Result;
use crate::store::error::CorruptRow;

const ADDRESS_HEADER: &str = "address_header";
const TRUSTED_PROXIES: &str = "trusted_proxies";
const TOKEN_HEADER: &str = "token_header";
const METHOD_HEADER: &str = "method_header";
const URI_HEADER: &str = "uri_header";
const FORWARD_TOKEN: &str = "forward_token";

/// As it is stored, and shown in the audit record.
pub(super) fn json(source: &ClientSource) -> Value {
    let mut object = json!({ FORWARD_TOKEN: source.forward_token });
    for (member, header) in [
        (ADDRESS_HEADER, &source.address_header),
        (TOKEN_HEADER, &source.token_header),
        (METHOD_HEADER, &source.method_header),
        (URI_HEADER, &source.uri_header),
    ] {
        if let Some(header) = header {
            object[member] = header.as_str().into();
        }
    }
    if !source.trusted_proxies.is_empty() {
        let proxies = source.trusted_proxies.entries();
        object[TRUSTED_PROXIES] = proxies.map(ToString::to_string).collect();
    }
    object
}

/// Reads what [`json`] made.
///
/// # Errors
/// [`CorruptRow`] for anything else, also for an unknown member: what a later program means by one may narrow who is
/// trusted.
pub(super) fn read(text: &str) -> Result<ClientSource> {
    let source = serde_json::from_str(text).ok().and_then(parse);
    Ok(source.ok_or(CorruptRow("a stored client source can't be read"))?)
}

fn parse(value: Value) -> Option<ClientSource> {
    let Value::Object(object) = value else { return None };
    let mut source = ClientSource::default();
    let mut forward_token = None;
    for (member, value) in object {
        let header = || HeaderName::parse(value.as_str()?).ok().map(Some);
        match member.as_str() {
            ADDRESS_HEADER => source.address_header = header()?,
            TOKEN_HEADER => source.token_header = header()?,
            METHOD_HEADER => source.method_header = header()?,
            URI_HEADER => source.uri_header = header()?,
            TRUSTED_PROXIES => {
                let texts = value.as_array()?.iter().map(Value::as_str);
                let texts: Vec<&str> = texts.collect::<Option<_>>()?;
                source.trusted_proxies = TrustedProxies::read_stored(&texts).ok()?;
            }
            FORWARD_TOKEN => forward_token = Some(value.as_bool()?),
            _ => return None,
        }
    }
    source.forward_token = forward_token?;
    Some(source)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics fails")]

    use super::*;

    #[test]
    fn header_that_is_refused_by_now_stays_readable() {
        let stored =
            r#"{"forward_token":true,"token_header":"content-type","uri_header":"grpc-timeout"}"#;
        let source = read(stored).unwrap();
        assert_eq!(source.token_header.as_ref().unwrap().as_str(), "content-type");
        assert_eq!(json(&source).to_string(), stored);
        assert!(read(r#"{"forward_token":true,"token_header":"x token"}"#).is_err());
    }
}
