//! Refuses forms that other sites send.
//!
//! The token is the secret, so a forged form needs it anyway; this is a second line. With `Referrer-Policy: no-referrer`
//! browsers send `Origin: null`, and old ones, or all over plain HTTP, no `Sec-Fetch-Site`. So only what is there counts.

use http::header::ORIGIN;
use http::{HeaderMap, Method, Uri};

/// The header in which a browser says where a request comes from.
const FETCH_SITE: &str = "sec-fetch-site";

/// The origins that the pages have.
#[derive(Debug)]
pub(super) struct OwnOrigins(Vec<String>);

impl OwnOrigins {
    /// The origin of the URL of the pages. This machine has two names.
    pub(super) fn of(url: &str) -> OwnOrigins {
        let mut origins = Vec::new();
        if let Ok(url) = url.parse::<Uri>()
            && let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority())
        {
            let port = authority.port_u16().filter(|port| *port != if scheme == "https" { 443 } else { 80 });
            let port = port.map_or_else(String::new, |port| format!(":{port}"));
            let host = authority.host().to_ascii_lowercase();
            if ["127.0.0.1", "[::1]"].contains(&host.as_str()) {
                origins.push(format!("{scheme}://localhost{port}"));
            }
            origins.push(format!("{scheme}://{host}{port}"));
        }
        OwnOrigins(origins)
    }

    /// Returns whether a request that may change something comes from another site.
    pub(super) fn is_foreign(&self, method: &Method, headers: &HeaderMap) -> bool {
        let is_own = |origin: &str| origin == "null" || self.0.iter().any(|own| own == origin);
        !method.is_safe()
            && (headers.get_all(FETCH_SITE).iter().any(|site| site != "same-origin")
                || headers.get_all(ORIGIN).iter().any(|origin| !origin.to_str().is_ok_and(is_own)))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn is_foreign(url: &str, headers: &[(&'static str, &'static str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let origins = OwnOrigins::of(url);
        assert!(!origins.is_foreign(&Method::GET, &map), "what only shows is open to all");
        origins.is_foreign(&Method::POST, &map)
    }

    #[test]
    fn a_form_is_refused_only_if_a_header_says_that_another_site_sent_it() {
        let url = "https://id.example.org/account";
        for (headers, foreign) in [
            (&[][..], false),
            (&[("origin", "null")], false),
            (&[("origin", "https://id.example.org")], false),
            (&[("origin", "null"), ("sec-fetch-site", "same-origin")], false),
            (&[("origin", "https://evil.example")], true),
            (&[("origin", "http://id.example.org")], true),
            (&[("origin", "https://id.example.org:8443")], true),
            (&[("origin", "https://id.example.org.evil.example")], true),
            (&[("origin", "")], true),
            (&[("origin", "null"), ("origin", "https://evil.example")], true),
            (&[("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("origin", "null"), ("sec-fetch-site", "cross-site")], true),
        ] {
            assert_eq!(is_foreign(url, headers), foreign, "{headers:?}");
        }
    }

    #[test]
    fn the_own_origin_has_no_default_port_and_this_machine_has_two_names() {
        for (url, origin) in [
            ("https://ID.example.org:443", "https://id.example.org"),
            ("https://id.example.org:8443/", "https://id.example.org:8443"),
            ("http://127.0.0.1:50053", "http://127.0.0.1:50053"),
            ("http://127.0.0.1:50053", "http://localhost:50053"),
            ("http://[::1]:50053", "http://[::1]:50053"),
        ] {
            assert!(!is_foreign(url, &[("origin", origin)]), "{url} {origin}");
        }
    }
}
