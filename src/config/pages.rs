//! The values of `[pages]` and `[links]`, and the URLs that follow from them.

use std::net::SocketAddr;

use http::Uri;

use super::Config;
use super::key::Value;
use crate::domain::caller::Network;
use crate::domain::link::LinkUrls;

/// Longest URL in bytes. It stands on one line of a mail, with a token of 47 bytes.
const URL_MAX: usize = 512;

/// A URL under which browsers reach the built-in pages, without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl(String);

/// The URL of links, with `{token}` and `{purpose}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkUrl(String);

/// Networks; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(pub Vec<Network>);

impl PublicUrl {
    fn parse(text: &str) -> Option<PublicUrl> {
        let url = text.trim_end_matches('/');
        let has_more = url.contains(['?', '#', '{', '}']);
        (!has_more && is_web_url(url)).then(|| PublicUrl(url.to_owned()))
    }

    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl LinkUrl {
    /// Parses a URL. Returns `None` if it lacks a part, or if a token in it would cross the network in the clear.
    pub fn parse(text: &str) -> Option<LinkUrl> {
        let has_both = ["{token}", "{purpose}"].iter().all(|part| text.matches(part).count() == 1);
        let filled = text.replace("{token}", "t").replace("{purpose}", "p");
        let authority = text.split("//").nth(1)?.split(['/', '?', '#']).next()?;
        // The `http` crate drops fragments.
        let is_plain = !filled.contains(['{', '}']) && !authority.contains('{');
        (has_both && is_plain && is_web_url(&filled)).then(|| LinkUrl(text.to_owned()))
    }
}

/// Returns whether a text is an absolute URL that is safe to put into a mail: `https`, or `http` for this machine.
fn is_web_url(text: &str) -> bool {
    let Ok(url) = text.parse::<Uri>() else { return false };
    let Some(authority) = url.authority() else { return false };
    let host = authority.host().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let is_safe = match url.scheme_str() {
        Some("https") => true,
        Some("http") => is_here,
        _ => false,
    };
    is_safe
        && text.len() <= URL_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"'\\`".contains(&byte))
        && !authority.as_str().contains('@')
        && !host.is_empty()
}

impl Value for Option<PublicUrl> {
    fn read(text: &str) -> Option<Self> {
        if text == "auto" { Some(None) } else { PublicUrl::parse(text).map(Some) }
    }

    fn write(&self) -> String {
        self.as_ref().map_or_else(|| "auto".to_owned(), |url| url.0.clone())
    }
}

impl Value for Option<LinkUrl> {
    fn read(text: &str) -> Option<Self> {
        if text == "auto" { Some(None) } else { LinkUrl::parse(text).map(Some) }
    }

    fn write(&self) -> String {
        self.as_ref().map_or_else(|| "auto".to_owned(), |url| url.0.clone())
    }
}

impl Value for Networks {
    fn read(text: &str) -> Option<Self> {
        if text == "off" {
            return Some(Networks::default());
        }
        text.split(',').map(|network| Network::parse(network.trim())).collect::<Option<_>>().map(Networks)
    }

    fn write(&self) -> String {
        if self.0.is_empty() {
            return "off".to_owned();
        }
        self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

impl Config {
    /// The URL of the pages for browsers, without a slash at its end. `address` is where they listen.
    pub fn pages_url(&self, address: SocketAddr) -> String {
        match &self.pages.public_url {
            Some(url) => url.0.clone(),
            None => format!("{}://{address}", if self.tls.cert.is_some() { "https" } else { "http" }),
        }
    }

    /// Makes the URLs of links; `pages` is where the pages listen. Returns `None` if links lead nowhere: without pages of either
    /// kind.
    pub fn link_urls(&self, pages: Option<SocketAddr>) -> Option<LinkUrls> {
        match &self.links.url {
            Some(url) => LinkUrls::parse(&url.0),
            None => LinkUrls::parse(&format!("{}/{{purpose}}?token={{token}}", self.pages_url(pages?))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::link::LinkPurpose;

    #[test]
    fn a_public_url_is_https_or_this_machine() {
        for right in
            ["https://id.example.org", "https://id.example.org:8443/a/b/", "http://127.0.0.1:1", "http://[::1]"]
        {
            assert!(PublicUrl::parse(right).is_some_and(|url| !url.as_str().ends_with('/')), "{right}");
        }
        for wrong in [
            "",
            "id.example.org",
            "http://id.example.org",
            "https://",
            "https://a@id.example.org",
            "https://id.example.org/?a=b",
            "https://id.example.org/#a",
            "https://id.example.org/{token}",
            "https://id.example.org/a b",
            "https://id.example.org/\"x",
            "javascript:alert(1)",
            "ftp://id.example.org",
        ] {
            assert_eq!(PublicUrl::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_url_of_links_has_each_part_once_and_none_in_the_host() {
        for right in ["https://id.example.org/{purpose}?t={token}", "https://id.example.org/#/{purpose}/{token}"] {
            assert!(LinkUrl::parse(right).is_some(), "{right}");
        }
        for wrong in [
            "https://id.example.org/reset?t={token}",
            "https://id.example.org/{purpose}",
            "https://id.example.org/{purpose}?t={token}{token}",
            "https://id.example.org/{purpose}?t={token}&x={user}",
            "https://{purpose}.example.org/?t={token}",
            "http://id.example.org/{purpose}?t={token}",
        ] {
            assert_eq!(LinkUrl::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sec_001_links_follow_the_configuration_and_nothing_else() {
        let mut config = Config::default_in(std::path::Path::new("/srv/id"));
        let address = SocketAddr::from(([127, 0, 0, 1], 7));
        let reset =
            |config: &Config, pages| config.link_urls(pages).map(|urls| urls.link(LinkPurpose::PasswordReset, "T"));
        assert_eq!(reset(&config, Some(address)).as_deref(), Some("http://127.0.0.1:7/reset?token=T"));
        assert_eq!(reset(&config, None), None, "no page, no link");
        config.tls.cert = Some("a".into());
        assert_eq!(reset(&config, Some(address)).as_deref(), Some("https://127.0.0.1:7/reset?token=T"));
        config.pages.public_url = PublicUrl::parse("https://id.example.org/");
        assert_eq!(reset(&config, Some(address)).as_deref(), Some("https://id.example.org/reset?token=T"));
        config.links.url = LinkUrl::parse("https://my.example.org/{purpose}/{token}");
        assert_eq!(reset(&config, None).as_deref(), Some("https://my.example.org/reset/T"));
    }
}
