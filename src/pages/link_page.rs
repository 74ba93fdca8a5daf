//! The pages that links lead to.

use strum::{EnumIter, EnumString, IntoStaticStr};

use crate::domain::link::LinkPurpose;

/// A page that a link leads to. `LinkUrls` of the domain makes the URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(super) enum LinkPage {
    /// Choosing a new password.
    Reset,
    /// Choosing the first password.
    Invite,
    /// Confirming an e-mail address.
    Verify,
    /// Ending links that the user did not ask for.
    Cancel,
}

impl LinkPage {
    /// The name in URLs.
    pub(super) fn as_str(self) -> &'static str {
        self.into()
    }
}

impl From<LinkPurpose> for LinkPage {
    fn from(purpose: LinkPurpose) -> LinkPage {
        match purpose {
            LinkPurpose::PasswordReset => LinkPage::Reset,
            LinkPurpose::Invite => LinkPage::Invite,
            LinkPurpose::EmailVerification => LinkPage::Verify,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::link::LinkUrls;

    #[test]
    fn links_lead_to_the_pages_of_their_purpose() {
        let urls = LinkUrls::parse("{purpose}?{token}");
        let page = |url: Option<String>| url.and_then(|url| url.split('?').next()?.parse::<LinkPage>().ok());
        for purpose in [LinkPurpose::PasswordReset, LinkPurpose::Invite, LinkPurpose::EmailVerification] {
            assert_eq!(page(urls.as_ref().map(|urls| urls.link(purpose, "t"))), Some(LinkPage::from(purpose)));
        }
        assert_eq!(page(urls.as_ref().map(|urls| urls.cancel("t"))), Some(LinkPage::Cancel));
    }
}
