//! Deleting a token, which nothing undoes: what last used it stands before the button.

use askama::Template;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};

use super::answer::{PageError, Result, page};
use super::form::{Id, NoFields};
use super::frame::{Frame, Place};
use super::session::{Sent, Signed};
use super::token::find;
use super::view::{When, when};
use crate::policy::token::TokenState;
use crate::service::tokens::Described;

#[derive(Template)]
#[template(path = "page/delete.html")]
struct DeletePage {
    frame: Frame,
    id: String,
    name: String,
    last_use: Option<When>,
    /// What it was last used for.
    last_scopes: String,
    created: When,
}

pub(super) async fn ask(signed: Signed, Id(id): Id) -> Result<Response> {
    let Described { token, in_force, outlook } = find(&signed, &id).await?;
    let id = token.id.to_string();
    if token.state != TokenState::Active {
        return Err(PageError::new(
            StatusCode::CONFLICT,
            "Deleted already",
            "This token is deleted already.",
        )
        .at(&signed, Place::Tokens)
        .with_way(format!("/tokens/{id}"), "The token"));
    }
    let now = outlook.calendar.now;
    let last = token.uses.last;
    let scopes = token.uses.scopes.iter().filter(|&&(_, at)| Some(at) == last).map(|&(id, _)| id);
    let view = DeletePage {
        frame: Frame {
            how: vec![format!("portcullis token delete {id}")],
            ..signed.frame(format!("Delete {}", token.name), Place::Tokens)
        },
        name: token.name.clone(),
        last_use: last.map(|at| when(at, now)),
        last_scopes: crate::service::explain::names(&in_force, scopes).join(", "),
        created: when(token.created, now),
        id,
    };
    Ok(page(StatusCode::OK, &view))
}

pub(super) async fn delete(Id(id): Id, Sent { signed, .. }: Sent<NoFields>) -> Result<Response> {
    let id = find(&signed, &id).await?.token.id.to_string();
    signed.services().delete_token(signed.caller(), &id, false).await.map_err(|error| {
        let way = format!("/tokens/{id}");
        PageError::from(error).at(&signed, Place::Tokens).with_way(way, "The token")
    })?;
    Ok(Redirect::to(&format!("/tokens/{id}?done=deleted")).into_response())
}
