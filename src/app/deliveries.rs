//! Messages to users as operators see them: listed, sent again, cancelled.

use super::App;
use super::idempotency::{Idempotency, Replay, Retry};
use super::outbox::MailTransport;
use super::writer::{RolledBack, Writer};
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::Caller;
use crate::domain::delivery::{Delivery, DeliveryFilter, DeliveryKind, DeliveryState};
use crate::domain::email::EmailAddress;
use crate::domain::id::DeliveryId;
use crate::domain::idempotency::Remembered;
use crate::domain::link::{LinkPurpose, LinkWay, LinkWish};
use crate::domain::lockout::LockCause;
use crate::domain::page::{PageRequest, PageSize};
use crate::domain::profile::Note;
use crate::domain::time::Timestamp;
use crate::domain::user::{Effects, User, UserKind, UserRef};
use crate::error::{Error, Limit, Narrowing, Resource, Result, Unmet};
use crate::store::deliveries::{
    Cancelled, Queue, delivery_by_id, delivery_cancel, delivery_list, delivery_lock_row, delivery_queue,
};
use crate::store::links::link_end;
use crate::store::users::user_id_by_ref;

/// A command to list messages.
#[derive(Debug)]
pub struct ListDeliveries {
    /// The user. `None` means all.
    pub user: Option<UserRef>,
    /// Selects the messages.
    pub filter: DeliveryFilter,
    /// The page to return.
    pub page: PageRequest,
}

/// One page of messages, newest first.
#[derive(Debug)]
pub struct DeliveryPage {
    /// The rows of the page.
    pub deliveries: Vec<Delivery>,
    /// The token of the next page. Empty on the last page.
    pub next_page_token: String,
}

/// A command to send a message again.
#[derive(Debug)]
pub struct ResendDelivery {
    /// The message.
    pub id: DeliveryId,
    /// Why, for the audit log.
    pub note: Option<Note>,
    /// If set, makes a retry safe.
    pub idempotency: Option<Idempotency>,
}

/// A command to cancel a message.
#[derive(Debug)]
pub struct CancelDelivery {
    /// The message.
    pub id: DeliveryId,
    /// Why, for the audit log.
    pub note: Option<Note>,
}

/// A command to send a link that confirms an address.
#[derive(Debug)]
pub struct SendEmailVerification {
    /// The account.
    pub user: UserRef,
    /// Why, for the audit log.
    pub note: Option<Note>,
    /// If set, makes a retry safe.
    pub idempotency: Option<Idempotency>,
}

/// A message that was sent, and whether this repeats the answer of an earlier call.
#[derive(Debug)]
pub struct Sent {
    /// The message.
    pub delivery: Delivery,
    /// Whether nothing was done again.
    pub replayed: bool,
}

/// The state of the outbox.
#[derive(Debug)]
pub struct MailQueue {
    /// How mail is sent.
    pub transport: MailTransport,
    /// Whether links can be made.
    pub links_enabled: bool,
    /// The messages that wait, and the last outcomes.
    pub queue: Queue,
}

/// A message to be sent: a link of one purpose to one user.
struct Sending<'a> {
    user: UserRef,
    purpose: LinkPurpose,
    repeats: Option<Delivery>,
    note: Option<&'a Note>,
}

impl App {
    /// Reads one message.
    pub async fn show_delivery(&self, _caller: &Caller, id: DeliveryId) -> Result<Delivery> {
        delivery_by_id(self.store.reader(), id).await?.ok_or_else(missing)
    }

    /// Lists messages, newest first.
    pub async fn list_deliveries(&self, caller: &Caller, command: ListDeliveries) -> Result<DeliveryPage> {
        let ListDeliveries { user, filter, page } = command;
        let user = match &user {
            Some(user) => {
                let found = user_id_by_ref(self.store.reader(), user).await?;
                Some(found.ok_or_else(|| Error::no_user(user.field()))?)
            }
            None => None,
        };
        let selection = (&user, &filter);
        let after = self.cursor(caller, &selection, &page.token)?;
        let narrowing = [Narrowing::Set("user")];
        let narrowing = if user.is_none() { narrowing.as_slice() } else { &[] };
        let list = async |reader: &_| delivery_list(reader, &filter, user, after.as_ref(), page.size).await;
        let rows = self.list(caller, narrowing, list).await?;
        let next_page_token = self.page_token(caller, &selection, rows.next)?;
        Ok(DeliveryPage { deliveries: rows.rows, next_page_token })
    }

    /// Sends the link of a message again, as a new link to the present address.
    pub async fn resend_delivery(&self, caller: &Caller, command: ResendDelivery) -> Result<Sent> {
        let ResendDelivery { id, note, idempotency } = command;
        let earlier = self.show_delivery(caller, id).await?;
        let purpose = repeatable(&earlier)?;
        let (user, repeats, note) = (UserRef::Id(earlier.user_id), Some(earlier), note.as_ref());
        self.send(caller, &Sending { user, purpose, repeats, note }, idempotency.as_ref()).await
    }

    /// Sends a link that confirms the address.
    pub async fn send_email_verification(&self, caller: &Caller, command: SendEmailVerification) -> Result<Sent> {
        let SendEmailVerification { user, note, idempotency } = command;
        let (purpose, repeats, note) = (LinkPurpose::EmailVerification, None, note.as_ref());
        self.send(caller, &Sending { user, purpose, repeats, note }, idempotency.as_ref()).await
    }

    async fn send(&self, caller: &Caller, sending: &Sending<'_>, idempotency: Option<&Idempotency>) -> Result<Sent> {
        let retry = idempotency.map(|key| Retry::new(self, caller, key));
        let work = Box::pin(self.send_once(caller, sending, retry.as_ref()));
        let sent = self.once(retry.as_ref(), work, |Replay { delivery, .. }| (delivery, true)).await?;
        let (delivery, replayed) = sent;
        Ok(Sent { delivery: delivery.ok_or_else(missing)?, replayed })
    }

    /// Sends the link. Returns `None` if another call with the same idempotency key committed first.
    async fn send_once(
        &self,
        caller: &Caller,
        sending: &Sending<'_>,
        retry: Option<&Retry<'_>>,
    ) -> Result<Option<(Option<Delivery>, bool)>> {
        self.write(caller, Some(&sending.user), |mut writer| async move {
            let user = sendable(&mut writer, sending).await?;
            self.check_link(user.email.is_some(), LinkWay::Mailed)?;
            check_pause(&writer, &user, sending).await?;
            writer.check_message_limits(&user, &caller.principal).await?;
            let change = writer.change();
            if let Some(earlier) = &sending.repeats {
                // A link that has gone out stays valid: the mail may arrive after all.
                let unsent = delivery_cancel(&change.tx, Cancelled::One(earlier.id), change.now).await? > 0;
                if let (true, Some(link)) = (unsent, earlier.link_id) {
                    link_end(&change.tx, link, change.now).await?;
                }
            }
            let repeats = sending.repeats.as_ref().map(|earlier| earlier.id);
            let wish = LinkWish { way: LinkWay::Mailed, ttl: None };
            let sent = self.send_link(&change, &user, sending.purpose, wish, repeats).await?;
            let delivery = sent.delivery.ok_or_else(missing)?;
            let answer = Remembered {
                user_id: user.id,
                expires_at: delivery.expires_at.map(Timestamp::as_micros),
                effects: Effects::default(),
                delivery_id: Some(delivery.id),
            };
            if let Some(retry) = retry
                && !retry.remember(&change, &answer).await?
            {
                return Ok(change.roll_back(RolledBack::LostIdempotencyRace, None));
            }
            let event = Event::new(EventType::DeliverySent, Target::of(&user))
                .note(sending.note)
                .about(delivery.id)
                .detail("kind", delivery.letter.kind().as_str());
            let event = match repeats {
                Some(earlier) => event.detail("resendOf", earlier),
                None => event,
            };
            change.commit(event, Some((Some(delivery), false))).await
        })
        .await
    }

    /// Stops a message that has not gone out, and ends its link even if it has.
    pub async fn cancel_delivery(&self, caller: &Caller, command: CancelDelivery) -> Result<Delivery> {
        let earlier = self.show_delivery(caller, command.id).await?;
        if earlier.letter.kind() == DeliveryKind::Notice {
            // An operator must not stop the notice of their own act.
            return Err(Unmet::DeliveryNotRepeatable("and a notice cannot be cancelled").into());
        }
        let (command, user_ref) = (&command, &UserRef::Id(earlier.user_id));
        let link = earlier.link_id;
        self.write(caller, Some(user_ref), |mut writer| async move {
            let user = writer.target().await?;
            writer.not_oneself(user.id)?;
            let before = delivery_lock_row(&writer.tx, command.id).await?.ok_or_else(missing)?;
            let change = writer.change();
            delivery_cancel(&change.tx, Cancelled::One(command.id), change.now).await?;
            let was_live = match link {
                Some(link) => link_end(&change.tx, link, change.now).await?,
                None => false,
            };
            let after = delivery_by_id(&change.tx, command.id).await?.ok_or_else(missing)?;
            if before.state == after.state && before.state != DeliveryState::Sending && !was_live {
                return Ok(change.roll_back(RolledBack::NotApplied, after));
            }
            let event = Event::new(EventType::DeliveryCancelled, Target::of(&user))
                .note(command.note.as_ref())
                .about(command.id)
                .detail("kind", after.letter.kind().as_str());
            change.commit(event, after).await
        })
        .await
    }

    /// Reads the state of the outbox.
    pub async fn mail_queue(&self, _caller: &Caller) -> Result<MailQueue> {
        Ok(MailQueue {
            transport: self.settings.mail.transport,
            links_enabled: self.link_urls().is_some(),
            queue: delivery_queue(self.store.reader()).await?,
        })
    }

    /// Sets the gauges of the outbox.
    pub async fn measure_outbox(&self) -> Result<()> {
        let queue = delivery_queue(self.store.reader()).await?;
        let held_up = queue.oldest_held_up.map(|oldest| self.now().duration_since(oldest)).unwrap_or_default();
        self.metrics.outbox(&queue.waiting, held_up);
        Ok(())
    }
}

fn missing() -> Error {
    Error::NotFound { resource: Resource::Delivery, field: "delivery_id" }
}

/// The purpose of the link that a message carried. Fails if it carried none.
fn repeatable(earlier: &Delivery) -> Result<LinkPurpose> {
    let not = |why| Err(Unmet::DeliveryNotRepeatable(why).into());
    match earlier.letter.kind() {
        DeliveryKind::Invite => Ok(LinkPurpose::Invite),
        DeliveryKind::PasswordReset => Ok(LinkPurpose::PasswordReset),
        DeliveryKind::EmailVerification => Ok(LinkPurpose::EmailVerification),
        DeliveryKind::TemporaryPassword => not("its password is not kept: reset the password again"),
        DeliveryKind::Notice => not("a notice tells of a moment that has passed"),
    }
}

/// Locks and reads the account. Fails if no such link can be sent to it.
async fn sendable(writer: &mut Writer<'_>, sending: &Sending<'_>) -> Result<User> {
    let user = writer.target().await?;
    // A stolen token must not send its owner's links to a mailbox that the thief reads.
    writer.not_oneself(user.id)?;
    if user.kind == UserKind::Service {
        return Err(Unmet::UserIsService.into());
    }
    if let Some(lock) = user.lock(writer.now).filter(|lock| lock.cause != LockCause::FailedSignIns) {
        return Err(Unmet::UserLocked(lock.cause).into());
    }
    match sending.purpose {
        LinkPurpose::Invite if !user.is_pending() => {
            Err(Unmet::DeliveryNotRepeatable("the user has a password: reset it instead").into())
        }
        LinkPurpose::PasswordReset if user.is_pending() => {
            Err(Unmet::DeliveryNotRepeatable("the user has no password yet: reset it, which sends an invitation")
                .into())
        }
        LinkPurpose::EmailVerification if user.email_verified_at.is_some() && sending.repeats.is_some() => {
            Err(Unmet::DeliveryNotRepeatable("the address is confirmed already").into())
        }
        _ => Ok(user),
    }
}

/// Fails if the message, or one that has repeated it, may still arrive.
async fn check_pause(writer: &Writer<'_>, user: &User, sending: &Sending<'_>) -> Result<()> {
    let (Some(earlier), Some(one)) = (&sending.repeats, PageSize::parse(1)) else { return Ok(()) };
    let filter = DeliveryFilter { kinds: vec![earlier.letter.kind()], states: Vec::new() };
    let newest = delivery_list(&writer.tx, &filter, Some(user.id), None, one).await?.rows;
    let is_at_address = |sent: &&Delivery| user.email.as_ref().map(EmailAddress::as_str) == Some(sent.address.as_str());
    let allowed_at = newest.iter().chain([earlier]).filter(is_at_address).map(Delivery::resend_allowed_at).max();
    match allowed_at.filter(|at| *at > writer.now) {
        Some(at) => Err(Error::Exhausted { limit: Limit::Resends, retry_after: at.duration_since(writer.now) }),
        None => Ok(()),
    }
}
