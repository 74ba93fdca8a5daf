//! The outbox: messages are posted in the transaction of what they announce, and workers (`src/jobs/outbox.rs`) send them.

use super::App;
use super::links::NewLink;
use super::writer::{Change, RolledBack, Unaudited};
use crate::domain::delivery::{Attempted, Contents, Delivery, DeliveryState, LetterKind, Requester};
use crate::domain::email::EmailAddress;
use crate::domain::id::DeliveryId;
use crate::domain::link::{LinkLifetimes, LinkUrls};
use crate::domain::temporary_password::TemporaryPassword;
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::{Error, Result, Unmet};
use crate::store::deliveries::{
    Claimed, Leased, Mark, NewDelivery, Room, delivery_cancelled, delivery_claim, delivery_insert, delivery_is_due,
    delivery_mark, delivery_void_leases,
};

/// How mail is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailTransport {
    /// Not at all.
    Off,
    /// To files.
    File,
    /// To a relay.
    Smtp,
}

/// The settings for mail and links.
#[derive(Debug, Clone)]
pub struct MailSettings {
    /// How mail is sent.
    pub transport: MailTransport,
    /// The notices that are sent.
    pub notices: Vec<LetterKind>,
    /// Whether a temporary password may be mailed.
    pub temporary_passwords: bool,
    /// Where links lead to. `None` if nothing opens them.
    pub urls: Option<LinkUrls>,
    /// How long links work.
    pub lifetimes: LinkLifetimes,
}

/// A message to be posted.
pub(super) struct Letter<'a> {
    /// What it says.
    pub(super) kind: LetterKind,
    /// The user that it concerns.
    pub(super) user: &'a User,
    /// The address that it goes to.
    pub(super) address: &'a EmailAddress,
    /// The link in it.
    pub(super) link: Option<&'a NewLink>,
    /// The temporary password in it, and when it expires.
    pub(super) password: Option<(&'a TemporaryPassword, Option<Timestamp>)>,
    /// The new address, for the notices to the old one and to itself.
    pub(super) new_address: Option<&'a EmailAddress>,
    /// The side that asked for it.
    pub(super) requester: Requester,
    /// The message that it repeats.
    pub(super) resend_of: Option<DeliveryId>,
}

/// What an attempt to send a message met, for [`App::record_attempts`].
pub struct DeliveryAttempt {
    /// The message.
    pub leased: Leased,
    /// What the attempt met.
    pub attempted: Attempted,
    /// The same in the words of the relay, without secrets.
    pub words: String,
    /// The relay, or `file`.
    pub relay: String,
    /// Whether the attempt was slow.
    pub is_slow: bool,
    /// Why the relay or the folder failed, without addresses. `None` if mail to others may be accepted.
    pub relay_failure: Option<String>,
}

impl App {
    /// Fails if this server sends no mail with links.
    pub(super) fn check_sends_links(&self) -> Result<&LinkUrls> {
        let urls = self.settings.mail.urls.as_ref().filter(|_| self.sends_mail());
        urls.ok_or_else(|| Unmet::DeliveryDisabled.into())
    }

    /// Returns whether users can ask for a link.
    pub fn sends_links(&self) -> bool {
        self.check_sends_links().is_ok()
    }

    /// Fails if the temporary password cannot be mailed although it should.
    pub(super) fn check_handover(&self, has_address: bool, is_mailed: bool) -> Result<()> {
        if is_mailed && !(self.sends_mail() && self.settings.mail.temporary_passwords) {
            return Err(Unmet::DeliveryDisabled.into());
        }
        if is_mailed && !has_address {
            return Err(Unmet::NoDeliveryAddress.into());
        }
        Ok(())
    }

    /// Returns whether this server sends mail.
    pub fn sends_mail(&self) -> bool {
        self.settings.mail.transport != MailTransport::Off
    }

    /// Where links lead to.
    pub fn link_urls(&self) -> Option<&LinkUrls> {
        self.settings.mail.urls.as_ref()
    }

    /// Waits until a message was posted on this server.
    pub async fn message_posted(&self) {
        self.posted.notified().await;
    }

    /// Returns whether a message is due.
    pub async fn is_message_due(&self) -> Result<bool> {
        delivery_is_due(self.store.reader(), self.now()).await
    }

    /// Writes down what attempts met, and leases the next messages, in one transaction.
    pub async fn record_and_claim(&self, attempts: &[DeliveryAttempt], room: Room<'_>) -> Result<Claimed> {
        let room = &room;
        let caller = super::maintenance::job("job/outbox");
        self.write(&caller, None, |writer| async move {
            let change = writer.change();
            self.record_attempts(&change, attempts).await?;
            let claimed = delivery_claim(&change.tx, change.now, room, self.environment.bytes()).await?;
            for (kind, state) in &claimed.ended {
                self.metrics.delivery_ended(*kind, *state);
            }
            change.commit_unaudited(Unaudited::Delivery, claimed).await
        })
        .await
    }

    /// Attempts after which the same follows are written down by one statement.
    async fn record_attempts(&self, change: &Change<'_>, attempts: &[DeliveryAttempt]) -> Result<()> {
        if attempts.is_empty() {
            return Ok(());
        }
        let ids: Vec<DeliveryId> = attempts.iter().map(|attempt| attempt.leased.delivery.id).collect();
        let cancelled = delivery_cancelled(&change.tx, &ids).await?;
        let mut marks: Vec<(Mark<'_>, Vec<(&Leased, &str)>)> = Vec::new();
        for DeliveryAttempt { leased, attempted, words, relay, is_slow, relay_failure } in attempts {
            let [random] = self.environment.bytes::<1>();
            let tried = leased.tried(cancelled.contains(&leased.delivery.id));
            let next = tried.next(*attempted, change.now, f64::from(random) / 255.0);
            let mark = Mark { next, relay, is_slow: *is_slow, relay_failed: relay_failure.is_some() };
            match marks.iter_mut().find(|(known, _)| *known == mark) {
                Some((_, same)) => same.push((leased, words)),
                None => marks.push((mark, vec![(leased, words)])),
            }
        }
        for (mark, same) in marks {
            let marked = delivery_mark(&change.tx, &same, &mark, change.now).await?;
            if mark.next.next_attempt_at.is_none() {
                for (leased, _) in same.into_iter().filter(|(leased, _)| marked.contains(&leased.delivery.id)) {
                    self.metrics.delivery_ended(leased.delivery.letter.kind(), mark.next.state);
                }
            }
        }
        Ok(())
    }

    /// Returns what a message is made of. `None` if it cannot be opened, because the keys were replaced.
    pub fn contents(&self, leased: &Leased) -> Option<Contents> {
        let plain = self.keys.current().outbox_key().open(&context(leased.delivery.id), &leased.contents)?;
        serde_json::from_slice(&plain).ok()
    }

    /// Makes messages due at once that a process of this database was sending when it ended.
    pub async fn void_leases(&self) -> Result<()> {
        let caller = super::maintenance::job("job/outbox");
        self.write(&caller, None, |writer| async move {
            let change = writer.change();
            match delivery_void_leases(&change.tx, change.now).await? {
                0 => Ok(change.roll_back(RolledBack::NothingDue, ())),
                _ => change.commit_unaudited(Unaudited::Delivery, ()).await,
            }
        })
        .await
    }
}

impl Change<'_> {
    /// Posts a message, which goes out once the change has committed.
    pub(super) async fn post(&self, letter: Letter<'_>) -> Result<Delivery> {
        let Letter { kind, user, address, link, password, new_address, requester, resend_of } = letter;
        let id = DeliveryId::from_bytes(self.app.environment.bytes());
        let contents = Contents {
            username: user.username.as_str().to_owned(),
            name: user.display_name.as_ref().map(|name| name.as_str().to_owned()),
            requester,
            link_token: link.map(|link| link.secret.expose().to_string()),
            cancel_token: link.and_then(|link| link.cancel.as_ref()).map(|cancel| cancel.expose().to_string()),
            temporary_password: password.map(|(password, _)| password.expose().to_owned()),
            new_address: new_address.map(|address| address.as_str().to_owned()),
            invites_second_factor: kind.invites_second_factor() || user.is_second_factor_missing(),
            second_factor_due: user.second_factor_from().filter(|from| *from > self.now).map(Timestamp::as_micros),
        };
        let plain = zeroize::Zeroizing::new(serde_json::to_vec(&contents).map_err(Error::internal)?);
        let sealed = self.app.keys.current().outbox_key().seal(&self.app.environment, &context(id), &plain);
        let expires_at = link.map(|link| link.link.expires_at).or(password.and_then(|(_, expires_at)| expires_at));
        let delivery = Delivery {
            id,
            user_id: user.id,
            letter: kind,
            address: address.as_str().to_owned(),
            locale: user.locale.as_ref().map(|locale| locale.as_str().to_owned()),
            state: DeliveryState::Queued,
            attempts: 0,
            last_words: String::new(),
            relay_failed: false,
            relay: String::new(),
            created_at: self.now,
            updated_at: self.now,
            next_attempt_at: Some(self.now),
            expires_at: expires_at.or(told_end(user, kind)),
            link_id: link.map(|link| link.link.id),
            link_ended_at: None,
            resend_of,
        };
        let new = NewDelivery {
            delivery: &delivery,
            address_key: address.key(),
            requested_by: &self.principal_id(),
            contents: sealed.ok_or_else(|| Error::internal("a message could not be sealed"))?,
        };
        delivery_insert(&self.tx, new).await?;
        self.posted();
        Ok(delivery)
    }

    /// Posts a temporary password.
    pub(super) async fn post_password(
        &self,
        user: &User,
        password: &TemporaryPassword,
        expires_at: Option<Timestamp>,
    ) -> Result<Option<Delivery>> {
        let address = user.email.as_ref().ok_or(Error::Precondition(Unmet::NoDeliveryAddress))?;
        let letter = Letter {
            kind: LetterKind::TemporaryPassword,
            user,
            address,
            link: None,
            password: Some((password, expires_at)),
            new_address: None,
            requester: self.requester(),
            resend_of: None,
        };
        self.post(letter).await.map(Some)
    }

    /// Posts a notice of a change to the user's address, if the server sends notices of this kind and there is an address.
    pub(super) async fn notify(&self, user: &User, kind: LetterKind) -> Result<()> {
        match &user.email {
            Some(address) => self.notify_at(user, kind, address, None).await,
            None => Ok(()),
        }
    }

    /// Does the same to another address than the user's.
    pub(super) async fn notify_at(
        &self,
        user: &User,
        kind: LetterKind,
        address: &EmailAddress,
        new_address: Option<&EmailAddress>,
    ) -> Result<()> {
        if !self.app.sends_notice(kind) {
            return Ok(());
        }
        let requester = self.requester();
        let (link, password, resend_of) = (None, None, None);
        self.post(Letter { kind, user, address, link, password, new_address, requester, resend_of }).await?;
        Ok(())
    }
}

/// The end that a notice tells of.
fn told_end(user: &User, kind: LetterKind) -> Option<Timestamp> {
    match kind {
        LetterKind::PasswordExpiring => user.password_expires_at(),
        LetterKind::AccountInactive => user.inactive_from(),
        _ => None,
    }
}

/// The context that the contents of a message are sealed with.
fn context(id: DeliveryId) -> Vec<u8> {
    format!("message {id}").into_bytes()
}
