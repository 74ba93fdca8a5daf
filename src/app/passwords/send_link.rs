//! Resetting a password by a link, which an operator sends to the user or passes on. The old password works until the link is
//! used, so a mail that never arrives locks no user out.

use zeroize::Zeroizing;

use super::end::end_password;
use super::reset::{PasswordReset, Reset, reset_event, resettable};
use crate::app::App;
use crate::app::idempotency::Retry;
use crate::app::links::NewLink;
use crate::app::outbox::Letter;
use crate::app::writer::{Change, RolledBack};
use crate::domain::audit::Event;
use crate::domain::caller::Caller;
use crate::domain::delivery::{Delivery, LetterKind};
use crate::domain::id::DeliveryId;
use crate::domain::idempotency::Remembered;
use crate::domain::link::{LinkPurpose, LinkWay, LinkWish, MAX_RESET_TTL};
use crate::domain::user::{Effects, User};
use crate::domain::violation::{Fault, Violations};
use crate::error::{Error, Result, Unmet};
use crate::store::sessions::{Which, session_end};
use crate::store::tickets::ticket_end_all;
use crate::store::users::user_save;

/// A link that was made, and the message that carries it.
pub(in crate::app) struct SentLink {
    pub(in crate::app) link: NewLink,
    pub(in crate::app) delivery: Option<Delivery>,
}

impl App {
    /// Does the reset. Returns `None` if another call with the same idempotency key committed first.
    pub(super) async fn reset_by_link(
        &self,
        caller: &Caller,
        reset: &Reset,
        wish: LinkWish,
        retry: Option<&Retry<'_>>,
    ) -> Result<Option<PasswordReset>> {
        let done = self.write(caller, Some(&reset.user), |mut writer| async move {
            let before = resettable(&mut writer, reset).await?;
            self.check_link(before.email.is_some(), wish.way)?;
            if wish.way == LinkWay::Mailed {
                writer.check_message_limits(&before, &caller.principal).await?;
            }
            if reset.end_access_now {
                writer.keep_an_administrator(&before).await?;
            }
            let change = writer.change();
            let lifted = before.lock(change.now).filter(|_| reset.unlock).cloned();
            let mut after = before.clone();
            let begins_anew = lifted.is_some() || before.is_inactive(change.now);
            if begins_anew {
                after.active_from = Some(change.now);
            }
            if lifted.is_some() {
                after.stored_lock = None;
            }
            let purpose = after.password_link_purpose();
            check_ttl(purpose, wish)?;
            let (effects, throttle_ended) = if reset.end_access_now {
                end_access(&change, &before, &mut after).await?
            } else {
                (Effects::default(), None)
            };
            if begins_anew && !reset.end_access_now {
                user_save(&change.tx, &before, &mut after, None, change.now).await?;
            }
            let sent = self.send_link(&change, &after, purpose, wish, None).await?;
            change.reread(&mut after).await?;
            let effects = Effects { lock_lifted: lifted.is_some(), ..effects };
            if reset.validate_only {
                return Ok(change.roll_back(RolledBack::DryRun, Some((after, effects, lifted, None))));
            }
            let delivery_id = sent.delivery.as_ref().map(|delivery| delivery.id);
            let expires_at = Some(sent.link.link.expires_at.as_micros());
            let answer = Remembered { user_id: after.id, expires_at, effects, delivery_id };
            if let Some(retry) = retry
                && !retry.remember(&change, &answer).await?
            {
                return Ok(change.roll_back(RolledBack::LostIdempotencyRace, None));
            }
            let event = reset_event(&after, reset, &effects);
            let event = match delivery_id {
                Some(id) => event.about(id),
                None => event,
            };
            change.commit(event.and(throttle_ended), Some((after, effects, lifted, Some(sent)))).await
        });
        let Some((user, effects, lifted_lock, sent)) = done.await? else { return Ok(None) };
        if sent.is_some() {
            self.metrics.password_reset();
        }
        let expires_at = sent.as_ref().map(|sent| sent.link.link.expires_at);
        let link = sent.as_ref().and_then(|sent| self.url(sent, wish.way));
        let delivery = sent.and_then(|sent| sent.delivery);
        Ok(Some(PasswordReset {
            user,
            temporary_password: None,
            link,
            delivery,
            expires_at,
            effects,
            lifted_lock,
            remaining: Vec::new(),
            replayed: false,
        }))
    }

    /// Fails if no such link can be made for a user.
    pub(in crate::app) fn check_link(&self, has_address: bool, way: LinkWay) -> Result<()> {
        if way == LinkWay::Mailed && !has_address {
            return Err(Unmet::NoDeliveryAddress.into());
        }
        let urls = match way {
            LinkWay::Mailed => self.check_sends_links().ok(),
            LinkWay::Returned => self.link_urls(),
        };
        urls.map(|_| ()).ok_or_else(|| Unmet::DeliveryDisabled.into())
    }

    /// Makes a link, and posts it if it is to be mailed.
    pub(in crate::app) async fn send_link(
        &self,
        change: &Change<'_>,
        user: &User,
        purpose: LinkPurpose,
        wish: LinkWish,
        resend_of: Option<DeliveryId>,
    ) -> Result<SentLink> {
        let ttl = self.link_ttl(purpose, wish.ttl);
        if wish.way == LinkWay::Returned {
            let link = change.new_link(user, purpose, None, ttl).await?;
            return Ok(SentLink { link, delivery: None });
        }
        let address = user.email.as_ref().ok_or(Error::Precondition(Unmet::NoDeliveryAddress))?;
        let link = change.new_link(user, purpose, Some(address), ttl).await?;
        let letter = Letter {
            kind: LetterKind::of_link(purpose),
            user,
            address,
            link: Some(&link),
            password: None,
            new_address: None,
            requester: change.requester(),
            resend_of,
        };
        let delivery = change.post(letter).await?;
        Ok(SentLink { link, delivery: Some(delivery) })
    }

    /// The URL of a link that an operator passes on.
    pub(in crate::app) fn url(&self, sent: &SentLink, way: LinkWay) -> Option<Zeroizing<String>> {
        let urls = self.link_urls().filter(|_| way == LinkWay::Returned)?;
        Some(Zeroizing::new(urls.link(sent.link.link.purpose, &sent.link.secret.expose())))
    }
}

/// Fails if the link would work for too long. Whether it is an invitation is known only now.
fn check_ttl(purpose: LinkPurpose, wish: LinkWish) -> Result<()> {
    let mut faults = Violations::new();
    if purpose != LinkPurpose::Invite && wish.ttl.is_some_and(|ttl| ttl > MAX_RESET_TTL) {
        let field = match wish.way {
            LinkWay::Mailed => "send_link.ttl",
            LinkWay::Returned => "return_link.ttl",
        };
        let hours = MAX_RESET_TTL.as_secs() / 3600;
        faults.push(
            field,
            Fault::OutOfRange,
            format!("must be at most {hours} h: only an invitation works for longer"),
        );
    }
    faults.finish().map_err(Error::InvalidInput)
}

/// Ends the old password, sessions, tickets, older links, device tokens and a throttle, and saves the account. API tokens stay.
async fn end_access(change: &Change<'_>, before: &User, after: &mut User) -> Result<(Effects, Option<Event>)> {
    end_password(change, after).await?;
    after.stored_throttle = None;
    user_save(&change.tx, before, after, None, change.now).await?;
    let sessions = session_end(&change.tx, before.id, Which::All, change.now).await?;
    let tickets_revoked = ticket_end_all(&change.tx, before.id, change.now).await?;
    let links_revoked = change.end_links(before, None).await?;
    let (cleared, throttle_ended) = change.clear_throttle(before).await?;
    let effects = Effects {
        password_ended: before.password.is_some(),
        throttle_cleared: cleared.was_waiting,
        tickets_revoked,
        links_revoked,
        ..change.app.effects_of_ending(sessions, change.now)
    };
    Ok((effects, throttle_ended))
}
