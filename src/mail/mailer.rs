//! Sends a message of the outbox: fills its template, makes a letter of it and gives it to the transport.

use std::sync::Arc;

use super::connections::Connections;
use super::failure::{Culprit, Place, Verdict};
use super::letter::Letter;
use super::templates::{RenderError, Rendered, Templates, Values};
use super::transport::Transport;
use crate::config::Sender;
use crate::domain::delivery::{Attempted, Contents, Delivery};
use crate::domain::email::EmailAddress;
use crate::domain::link::LinkUrls;
use crate::domain::profile::Locale;
use crate::domain::time::Timestamp;

/// What sends the messages of the outbox.
pub struct Mailer {
    transport: Arc<Transport>,
    connections: Connections,
    templates: Templates,
    from: Sender,
    urls: Option<LinkUrls>,
    pages_url: Option<String>,
}

/// What an attempt to send a message met.
pub struct Outcome {
    /// What the attempt met.
    pub attempted: Attempted,
    /// The same in words, without secrets: the relay's answer, or why there was none. Empty for a file.
    pub words: String,
    /// Why the relay or the folder failed, without addresses. `None` if mail to others may be accepted.
    pub relay_failure: Option<String>,
}

impl Outcome {
    fn of(attempted: Attempted, words: String) -> Outcome {
        Outcome { attempted, words, relay_failure: None }
    }

    /// The message was refused, and not by the relay.
    pub fn refused(words: String) -> Outcome {
        Outcome::of(Attempted::Refused, words)
    }
}

impl Mailer {
    /// Creates a mailer. `urls` is where links lead to, `pages_url` where the pages for browsers are.
    pub fn new(
        transport: Arc<Transport>,
        templates: Templates,
        from: Sender,
        urls: Option<LinkUrls>,
        pages_url: Option<String>,
    ) -> Mailer {
        Mailer { transport, connections: Connections::default(), templates, from, urls, pages_url }
    }

    /// Where mail goes.
    pub fn place(&self) -> Place {
        self.transport.place()
    }

    fn render(&self, delivery: &Delivery, contents: &Contents) -> Result<Rendered, RenderError> {
        let urls = self.urls.as_ref();
        let purpose = delivery.letter.purpose();
        let link = contents.link_token.as_ref().zip(urls).zip(purpose);
        let page = |page: &str| self.pages_url.as_ref().map(|pages| format!("{pages}/{page}"));
        let values = Values {
            username: contents.username.clone(),
            name: contents.name.clone(),
            address: delivery.address.clone(),
            link: link.map(|((token, urls), purpose)| urls.link(purpose, token)),
            cancel_link: contents.cancel_token.as_ref().zip(urls).map(|(token, urls)| urls.cancel(token)),
            temporary_password: contents.temporary_password.clone(),
            expires_at: delivery.expires_at,
            requester: contents.requester.clone(),
            requested_at: delivery.created_at,
            is_new_address: contents.new_address.as_ref() == Some(&delivery.address),
            new_address: contents.new_address.clone(),
            security_link: page("security").filter(|_| contents.invites_second_factor),
            second_factor_due: contents.second_factor_due.map(Timestamp::from_micros),
            forgot_link: page("forgot"),
        };
        let locale = delivery.locale.as_deref().and_then(|locale| Locale::parse(locale).ok().flatten());
        self.templates.render(delivery.letter, locale.as_ref(), &values)
    }

    /// Ends the connections to the relay. Called when there is nothing to send.
    pub async fn hang_up(&self) {
        self.transport.hang_up(&self.connections).await;
    }

    /// Sends a message.
    pub async fn send(&self, delivery: &Delivery, contents: &Contents) -> Outcome {
        let to = match EmailAddress::parse(&delivery.address) {
            Ok(to) => to,
            Err(fault) => return Outcome::refused(format!("the address {fault}")),
        };
        let rendered = match self.render(delivery, contents) {
            Ok(rendered) => rendered,
            Err(error) => return Outcome::refused(error.to_string()),
        };
        let id = delivery.id.to_string();
        let letter = Letter {
            from: &self.from,
            reply_to: None,
            to: &to,
            subject: &rendered.subject,
            text: &rendered.text,
            html: Some(&rendered.html),
            id: &id,
            date: delivery.created_at,
        };
        match self.transport.send(&letter, &self.connections).await {
            Ok(accepted) => {
                let words = accepted.reply().map(ToString::to_string).unwrap_or_default();
                Outcome::of(Attempted::Accepted, words)
            }
            Err(failure) => Outcome {
                attempted: match failure.verdict() {
                    Verdict::Retry => Attempted::NotAccepted,
                    Verdict::Failed => Attempted::Refused,
                    Verdict::Unknown => Attempted::Unknown,
                },
                relay_failure: (failure.culprit() == Culprit::Relay).then(|| failure.without_addresses()),
                words: failure.to_string(),
            },
        }
    }
}
