//! The stylesheet, the script and the icon: part of the program, and named by what they hold, so that
//! browsers keep them for good.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use crate::secret;

const STYLE: &str = include_str!("../../assets/page.css");
const SCRIPT: &str = include_str!("../../assets/page.js");
const ICON: &str = include_str!("../../assets/icon.svg");

/// The paths that pages name.
#[derive(Debug)]
pub(super) struct Assets {
    pub(super) style: String,
    pub(super) script: String,
    pub(super) icon: String,
}

pub(super) static ASSETS: LazyLock<Assets> = LazyLock::new(|| {
    let named = |stem: &str, text: &str, ending: &str| {
        let hash = secret::hex(&secret::digest(text.as_bytes())[..8]);
        format!("/assets/{stem}-{hash}.{ending}")
    };
    Assets {
        style: named("page", STYLE, "css"),
        script: named("page", SCRIPT, "js"),
        icon: named("icon", ICON, "svg"),
    }
});

pub(super) async fn send(Path(name): Path<String>) -> Response {
    let path = format!("/assets/{name}");
    let (kind, text) = if path == ASSETS.style {
        ("text/css; charset=utf-8", STYLE)
    } else if path == ASSETS.script {
        ("text/javascript; charset=utf-8", SCRIPT)
    } else if path == ASSETS.icon {
        ("image/svg+xml", ICON)
    } else {
        // A page of another version names it: the next one that is read is whole again.
        return (StatusCode::NOT_FOUND, "There is no such file.\n").into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    (headers, text).into_response()
}
