//! The name and labels of a token, which no decision rests on.

use std::collections::HashMap;

use askama::Template;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;

use super::answer::{PageError, Result, page};
use super::form::Id;
use super::frame::{Frame, Place};
use super::session::{Sent, Signed};
use super::token::find;
use crate::model::Labels;
use crate::policy::text::{quote, sentence};
use crate::service::Error;
use crate::service::tokens::UpdateToken;

/// The longest line that an error repeats, in bytes.
const SHOWN: usize = 80;

#[derive(Template)]
#[template(path = "page/edit.html")]
struct EditPage {
    frame: Frame,
    id: String,
    /// The name that it has.
    current: String,
    /// What stands in the fields.
    name: String,
    labels: String,
    errors: Vec<String>,
}

fn form(
    signed: &Signed,
    id: &str,
    current: String,
    (name, labels): (String, String),
    errors: Vec<String>,
) -> Response {
    let status = match errors.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let view = EditPage {
        frame: Frame {
            how: vec![format!("portcullis token update {id} --name NAME --label KEY=VALUE")],
            ..signed.frame(format!("Name and labels of {current}"), Place::Tokens)
        },
        id: id.to_owned(),
        current,
        name,
        labels,
        errors,
    };
    page(status, &view)
}

/// One line each, as the form takes them.
fn lines(labels: &Labels) -> String {
    let lines: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    lines.join("\n")
}

/// Labels by key, or what is wrong with which line.
fn parse(text: &str) -> std::result::Result<HashMap<String, String>, Vec<String>> {
    let (mut labels, mut errors) = (HashMap::new(), Vec::new());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.split_once('=') {
            None => errors.push(format!("{} is no label: write key=value.", quote(line, SHOWN))),
            Some((key, value)) => {
                if labels.insert(key.trim().to_owned(), value.to_owned()).is_some() {
                    let key = quote(key, SHOWN);
                    errors.push(format!("The key {key} is there twice: name each key once."));
                }
            }
        }
    }
    if errors.is_empty() { Ok(labels) } else { Err(errors) }
}

pub(super) async fn ask(signed: Signed, Id(id): Id) -> Result<Response> {
    let token = find(&signed, &id).await?.token;
    let fields = (token.name.clone(), lines(&token.labels));
    Ok(form(&signed, &token.id.to_string(), token.name, fields, Vec::new()))
}

/// What was typed.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct EditForm {
    name: String,
    labels: String,
}

pub(super) async fn change(
    Id(id): Id,
    Sent { signed, form: EditForm { name, labels } }: Sent<EditForm>,
) -> Result<Response> {
    let token = find(&signed, &id).await?.token;
    let id = token.id.to_string();
    let given = (name, labels);
    let labels = match parse(&given.1) {
        Ok(labels) => labels,
        Err(errors) => return Ok(form(&signed, &id, token.name, given, errors)),
    };
    let update = UpdateToken {
        token_id: &id,
        name: &given.0,
        labels: &labels,
        update_mask: &["*".to_owned()],
    };
    match signed.services().update_token(signed.caller(), update).await {
        Ok(_) => Ok(Redirect::to(&format!("/tokens/{id}?done=updated")).into_response()),
        Err(Error::Invalid(violations)) => {
            let errors = violations.iter();
            let errors = errors.map(|violation| {
                let (field, text) = (violation.field.as_str(), violation.description.as_str());
                match field {
                    "labels" => sentence(text),
                    _ => sentence(&format!("{field} {text}")),
                }
            });
            Ok(form(&signed, &id, token.name, given, errors.collect()))
        }
        Err(error) => Err(PageError::of_change(error)
            .at(&signed, Place::Tokens)
            .with_way(format!("/tokens/{id}"), "The token")),
    }
}
