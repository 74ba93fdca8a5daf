//! Style, script and logo. Their URLs change with their content, so browsers may keep them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use data_encoding::HEXLOWER;
use http::HeaderName;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};

use super::Pages;
use crate::domain::secret::Digest32;

/// The largest logo, in bytes. Each page shows it.
const MAX_LOGO: u64 = 256 << 10;

/// The first bytes of every PNG file (W3C PNG, 5.2).
const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

const STYLE: &str = include_str!("html/style.css");
const SCRIPT: &str = include_str!("html/password.js");
const ONCE: &str = include_str!("html/once.js");
const KEY: &str = include_str!("html/key.svg");

static STYLE_URL: LazyLock<String> = LazyLock::new(|| url("style.css", STYLE.as_bytes()));
static SCRIPT_URL: LazyLock<String> = LazyLock::new(|| url("password.js", SCRIPT.as_bytes()));
static ONCE_URL: LazyLock<String> = LazyLock::new(|| url("once.js", ONCE.as_bytes()));

/// The relative URL of something with this content.
fn url(name: &str, content: &[u8]) -> String {
    let digest = Digest32::sha256(content);
    let short = digest.as_bytes().get(..6).unwrap_or_default();
    format!("{name}?v={}", HEXLOWER.encode(short))
}

pub(super) fn style_url() -> &'static str {
    &STYLE_URL
}

pub(super) fn script_url() -> &'static str {
    &SCRIPT_URL
}

pub(super) fn once_url() -> &'static str {
    &ONCE_URL
}

/// A logo.
#[derive(Debug, Clone)]
pub struct Logo {
    media_type: &'static str,
    content: Bytes,
}

/// Why a logo is not usable.
#[derive(Debug, thiserror::Error)]
pub enum LogoError {
    /// The file cannot be read.
    #[error("cannot read {path}, the logo of pages.logo: {1}", path = .0.display())]
    Io(PathBuf, io::Error),
    /// The file is too large.
    #[error("{path}, the logo of pages.logo, has more than {} KiB; choose a smaller one", MAX_LOGO >> 10, path = .0.display())]
    TooLarge(PathBuf),
    /// The file is neither SVG nor PNG.
    #[error("{path}, the logo of pages.logo, is neither SVG nor PNG", path = .0.display())]
    Unknown(PathBuf),
}

impl Logo {
    /// Reads a logo.
    pub async fn read(path: &Path) -> Result<Logo, LogoError> {
        let failed = |error| LogoError::Io(path.to_owned(), error);
        if tokio::fs::metadata(path).await.map_err(failed)?.len() > MAX_LOGO {
            return Err(LogoError::TooLarge(path.to_owned()));
        }
        let content = tokio::fs::read(path).await.map_err(failed)?;
        let media_type = media_type(&content).ok_or_else(|| LogoError::Unknown(path.to_owned()))?;
        Ok(Logo { media_type, content: content.into() })
    }

    /// A key, for those that have no logo.
    pub(super) fn built_in() -> Logo {
        Logo { media_type: "image/svg+xml", content: Bytes::from_static(KEY.as_bytes()) }
    }

    /// Its relative URL.
    pub(super) fn url(&self) -> String {
        url("logo", &self.content)
    }
}

/// The media type of a file, by its content. A browser must not take it for a page.
fn media_type(content: &[u8]) -> Option<&'static str> {
    if content.starts_with(PNG_SIGNATURE) {
        return Some("image/png");
    }
    let text = std::str::from_utf8(content).ok()?;
    let start = text.trim_start_matches('\u{feff}').trim_start();
    let is_svg =
        start.starts_with("<svg") || (start.starts_with("<?xml") || start.starts_with("<!--")) && text.contains("<svg");
    is_svg.then_some("image/svg+xml")
}

fn kept(media_type: &'static str, content: Bytes) -> Response {
    let headers: [(HeaderName, &str); 3] = [
        (CONTENT_TYPE, media_type),
        (CACHE_CONTROL, "public, max-age=86400"),
        // An SVG that is opened by itself is a document.
        (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; sandbox"),
    ];
    (headers, content).into_response()
}

pub(super) async fn style() -> Response {
    kept("text/css; charset=utf-8", Bytes::from_static(STYLE.as_bytes()))
}

pub(super) async fn script() -> Response {
    kept("text/javascript; charset=utf-8", Bytes::from_static(SCRIPT.as_bytes()))
}

pub(super) async fn once() -> Response {
    kept("text/javascript; charset=utf-8", Bytes::from_static(ONCE.as_bytes()))
}

pub(super) async fn logo(State(pages): State<Arc<Pages>>) -> Response {
    let logo = &pages.views.logo;
    kept(logo.media_type, logo.content.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logo_is_an_svg_or_a_png_whatever_its_name() {
        for (content, found) in [
            (&b"\x89PNG\r\n\x1a\n\0\0"[..], Some("image/png")),
            (b"<svg xmlns='x'/>", Some("image/svg+xml")),
            (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg/>", Some("image/svg+xml")),
            (b"<!-- made by hand -->\n<svg/>", Some("image/svg+xml")),
            (b"<html><svg/></html>", None),
            (b"\xff\xd8\xff\xe0 JFIF", None),
            (b"", None),
        ] {
            assert_eq!(media_type(content), found, "{content:?}");
        }
        assert_eq!(media_type(KEY.as_bytes()), Some("image/svg+xml"));
    }
}
