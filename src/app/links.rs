//! Links: made for a user, looked at, cancelled, and used to confirm an address. Choosing a password with a link is in
//! `passwords/by_link.rs`.

use std::time::Duration;

use super::App;
use super::writer::{Change, RolledBack, Unit};
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::{Caller, Principal};
use crate::domain::email::EmailAddress;
use crate::domain::id::LinkId;
use crate::domain::link::{Link, LinkPurpose};
use crate::domain::profile::Locale;
use crate::domain::second_factor::SecondFactorMethod;
use crate::domain::secret::{CancelSecret, LinkSecret};
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::{Error, Limit, Result, Unauthenticated};
use crate::store::Connection;
use crate::store::deliveries::{Cancelled, Requested, delivery_cancel, delivery_count_requested};
use crate::store::links::{
    LinkDigests, link_consume, link_disown, link_end_all, link_find, link_find_to_cancel, link_insert, link_use,
};
use crate::store::users::{user_by_id, user_save};

/// Messages with a link or a password to one user in an hour. Enough for an operator who tries again; too few to fill a mailbox.
const MESSAGES_TO_A_USER: u64 = 10;

/// Messages with a link or a password that one operator sends in an hour.
const MESSAGES_OF_AN_OPERATOR: u64 = 600;

const HOUR: Duration = Duration::from_hours(1);

/// A link that was just made, with its secrets.
pub(super) struct NewLink {
    pub(super) link: Link,
    pub(super) secret: LinkSecret,
    /// The secret that cancels it. Only a mailed link has one.
    pub(super) cancel: Option<CancelSecret>,
}

/// What a link is good for.
#[derive(Debug)]
pub struct LinkView {
    /// The purpose.
    pub purpose: LinkPurpose,
    /// The user, to greet them.
    pub username: String,
    /// The language of the user.
    pub locale: Option<Locale>,
    /// The second factors of which one is needed. Empty means none.
    pub second_factors: Vec<SecondFactorMethod>,
    /// When the link expires.
    pub expires_at: Timestamp,
    /// The address that it confirms. `None` if it is for something else.
    pub address: Option<EmailAddress>,
}

impl App {
    /// Says what a link is good for. Uses nothing up: mail scanners open links.
    pub async fn inspect_link(&self, caller: &Caller, secret: Option<LinkSecret>) -> Result<LinkView> {
        self.check_source(caller).await?;
        let (link, user) = self.live_link(caller, secret.as_ref()).await?;
        let factors = user.second_factor.map(|factor| factor.methods()).unwrap_or_default();
        Ok(LinkView {
            purpose: link.purpose,
            username: user.username.as_str().to_owned(),
            locale: user.locale,
            address: user.email.filter(|_| link.purpose == LinkPurpose::EmailVerification),
            second_factors: if link.purpose.sets_password() { factors } else { Vec::new() },
            expires_at: link.expires_at,
        })
    }

    /// Marks the address as the user's own.
    pub async fn verify_email(&self, caller: &Caller, secret: Option<LinkSecret>) -> Result<()> {
        self.check_source(caller).await?;
        let (link, _) = self.live_link(caller, secret.as_ref()).await?;
        if link.purpose != LinkPurpose::EmailVerification {
            return Err(Unauthenticated::LinkInvalid.into());
        }
        let link = &link;
        self.write(caller, None, |mut writer| async move {
            let dead = || Error::Unauthenticated(Unauthenticated::LinkInvalid);
            let before = writer.locked(link.user_id).await?.ok_or_else(dead)?;
            let change = writer.change();
            if !before.can_use(link, change.now) || !link_consume(&change.tx, link.id, change.now).await? {
                return Err(dead());
            }
            let mut after = before.clone();
            after.email_verified_at = Some(change.now);
            user_save(&change.tx, &before, &mut after, None, change.now).await?;
            change.end_links(&after, Some(LinkPurpose::EmailVerification)).await?;
            change.commit(Event::new(EventType::EmailVerified, Target::of(&after)), ()).await
        })
        .await
    }

    /// Ends all links of the user and the purpose of the mail that `secret` comes from. Locks nothing, and does nothing the
    /// second time. Returns when the link of the mail was used, or the one by whose use it ended: then it is too late, and it is
    /// recorded that the user did not ask for it.
    pub async fn cancel_link(&self, caller: &Caller, secret: Option<CancelSecret>) -> Result<Option<Timestamp>> {
        self.check_source(caller).await?;
        let found = match &secret {
            Some(secret) => link_find_to_cancel(self.store.reader(), &secret.digest()).await?,
            None => None,
        };
        let Some(link) = &found else { return self.link_invalid(caller).await };
        self.write(caller, None, |mut writer| async move {
            let dead = || Error::Unauthenticated(Unauthenticated::LinkInvalid);
            let user = writer.locked(link.user_id).await?.ok_or_else(dead)?;
            let change = writer.change();
            let used_at = link_use(&change.tx, link).await?;
            let ended = change.end_links(&user, Some(link.purpose)).await?;
            let is_news = match used_at {
                Some(used_at) => link_disown(&change.tx, user.id, used_at, change.now).await?,
                None => false,
            };
            if ended == 0 && !is_news {
                return Ok(change.roll_back(RolledBack::NotApplied, used_at));
            }
            let event = Event::new(EventType::LinkCancelled, Target::of(&user))
                .detail("purpose", link.purpose.as_str())
                .detail("linksRevoked", ended);
            let event = if is_news { event.detail("linkWasUsed", true) } else { event };
            change.commit(event, used_at).await
        })
        .await
    }

    /// Finds a link that works, and its user. One that is not known counts against the source; one that has ended does not,
    /// since its owner may simply have opened an old mail.
    pub(super) async fn live_link(&self, caller: &Caller, secret: Option<&LinkSecret>) -> Result<(Link, User)> {
        let found = match secret {
            Some(secret) => link_find(self.store.reader(), &secret.digest()).await?,
            None => None,
        };
        let Some(link) = found else { return self.link_invalid(caller).await };
        let user = user_by_id(self.store.reader(), link.user_id).await?;
        let user = user.filter(|user| user.can_use(&link, self.now()));
        user.map(|user| (link, user)).ok_or_else(|| Unauthenticated::LinkInvalid.into())
    }

    /// How long a link works, unless the operator says otherwise.
    pub(super) fn link_ttl(&self, purpose: LinkPurpose, asked: Option<Duration>) -> Duration {
        let lifetimes = &self.settings.mail.lifetimes;
        asked.unwrap_or(match purpose {
            LinkPurpose::Invite => lifetimes.invite,
            LinkPurpose::PasswordReset => lifetimes.operator,
            LinkPurpose::EmailVerification => lifetimes.verification,
        })
    }
}

impl<Tx: Connection> Unit<'_, Tx> {
    /// Fails if the user has got too many links and passwords lately, or if the operator has sent too many.
    pub(super) async fn check_message_limits(&self, user: &User, principal: &Principal) -> Result<()> {
        self.check_requested(Limit::Messages, Requested::For(user.id), MESSAGES_TO_A_USER).await?;
        self.check_operator_messages(principal).await
    }

    /// Fails if the operator has sent too many links and passwords lately. The operator on the host may send any number.
    pub(super) async fn check_operator_messages(&self, principal: &Principal) -> Result<()> {
        if principal.is_local() {
            return Ok(());
        }
        self.check_requested(Limit::OperatorMessages, Requested::By(&principal.id()), MESSAGES_OF_AN_OPERATOR).await
    }

    async fn check_requested(&self, limit: Limit, whose: Requested<'_>, most: u64) -> Result<()> {
        let times = delivery_count_requested(&self.tx, &whose, self.now.saturating_sub(HOUR), most).await?;
        match times.last() {
            Some(oldest) if times.len() as u64 >= most => {
                let retry_after = oldest.saturating_add(HOUR).duration_since(self.now);
                Err(Error::Exhausted { limit, retry_after })
            }
            _ => Ok(()),
        }
    }
}

impl Change<'_> {
    /// Makes a link. `address` is where it is mailed to; without one it is handed to the operator.
    pub(super) async fn new_link(
        &self,
        user: &User,
        purpose: LinkPurpose,
        address: Option<&EmailAddress>,
        ttl: Duration,
    ) -> Result<NewLink> {
        let environment = &self.app.environment;
        let link = Link {
            id: LinkId::from_bytes(environment.bytes()),
            user_id: user.id,
            purpose,
            address: address.map(|address| address.key().to_owned()),
            created_at: self.now,
            expires_at: self.now.saturating_add(ttl),
            ended_at: None,
        };
        let secret = LinkSecret::from_bytes(environment.bytes());
        let cancel = address.map(|_| CancelSecret::from_bytes(environment.bytes()));
        let digests = LinkDigests { link: secret.digest(), cancel: cancel.as_ref().map(CancelSecret::digest) };
        let surplus = link_insert(&self.tx, &link, &digests).await?;
        if !surplus.is_empty() {
            delivery_cancel(&self.tx, Cancelled::OfLinks(&surplus), self.now).await?;
        }
        Ok(NewLink { link, secret, cancel })
    }

    /// Reads again what other tables say of an account that this change has written: its links, and whether mail failed.
    pub(super) async fn reread(&self, user: &mut User) -> Result<()> {
        *user = user_by_id(&self.tx, user.id).await?.ok_or_else(|| Error::internal("the changed account is gone"))?;
        Ok(())
    }

    /// Ends the links of a user, of one purpose or of all, and the messages with a link or a password that have not gone out.
    /// Returns how many links worked.
    pub(super) async fn end_links(&self, user: &User, purpose: Option<LinkPurpose>) -> Result<u32> {
        let ended = link_end_all(&self.tx, user.id, purpose, self.now).await?;
        let which = match purpose {
            None => Cancelled::OfPassword(user.id),
            Some(purpose) => Cancelled::LinksOf(user.id, purpose),
        };
        delivery_cancel(&self.tx, which, self.now).await?;
        Ok(ended)
    }
}
