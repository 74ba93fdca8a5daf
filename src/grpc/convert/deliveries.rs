//! Requests and messages about mail and links.

use zeroize::Zeroizing;

use super::code::optional_code;
use super::passwords::new_password;
use super::users::idempotency;
use super::{Wrong, count, each, finish, note, page, required, stamp, user_ref};
use crate::app::{
    CancelDelivery, CompletePasswordReset, ListDeliveries, MailQueue, ResendDelivery, SendEmailVerification,
};
use crate::domain::delivery::{Delivery, DeliveryFilter, DeliveryKind, DeliveryState, Obstacle};
use crate::domain::id::DeliveryId;
use crate::domain::link::LinkPurpose;
use crate::domain::secret::{CancelSecret, LinkSecret};
use crate::domain::violation::Violations;
use crate::error::Result;
use crate::proto::v1;

/// The maximum length of the token of a link, in bytes.
const MAX_LINK_BYTES: usize = 1024;

/// The maximum number of kinds or states in a request.
const MAX_CHOICES: usize = 16;

/// Returns the secret of a link; `None` if what was sent cannot be one. It gets the same error as a used link.
pub(in crate::grpc) fn inspect_link(message: v1::InspectLinkRequest) -> Result<Option<LinkSecret>> {
    let mut faults = Violations::new();
    let token = required(&mut faults, "link_token", message.link_token, MAX_LINK_BYTES);
    finish(faults, || Some(LinkSecret::parse(&Zeroizing::new(token?)).ok()))
}

pub(in crate::grpc) fn verify_email(message: v1::VerifyEmailRequest) -> Result<Option<LinkSecret>> {
    let mut faults = Violations::new();
    let token = required(&mut faults, "link_token", message.link_token, MAX_LINK_BYTES);
    finish(faults, || Some(LinkSecret::parse(&Zeroizing::new(token?)).ok()))
}

pub(in crate::grpc) fn cancel_link(message: v1::CancelLinkRequest) -> Result<Option<CancelSecret>> {
    let mut faults = Violations::new();
    let token = required(&mut faults, "cancel_token", message.cancel_token, MAX_LINK_BYTES);
    finish(faults, || Some(CancelSecret::parse(&Zeroizing::new(token?)).ok()))
}

pub(in crate::grpc) fn complete_reset(message: v1::CompletePasswordResetRequest) -> Result<CompletePasswordReset> {
    let mut faults = Violations::new();
    let token = required(&mut faults, "link_token", message.link_token, MAX_LINK_BYTES);
    let new_password = new_password(&mut faults, message.new_password);
    let code = optional_code(&mut faults, message.second_factor);
    let validate_only = message.validate_only;
    finish(faults, || {
        let link = LinkSecret::parse(&Zeroizing::new(token?)).ok();
        Some(CompletePasswordReset { link, new_password: new_password?, code: code?, validate_only })
    })
}

pub(in crate::grpc) fn show_delivery(message: v1::GetDeliveryRequest) -> Result<DeliveryId> {
    let mut faults = Violations::new();
    let id = delivery_id(&mut faults, message.delivery_id);
    finish(faults, || id)
}

pub(in crate::grpc) fn list_deliveries(message: v1::ListDeliveriesRequest) -> Result<ListDeliveries> {
    let mut faults = Violations::new();
    let user = match message.user {
        None => Some(None),
        named => user_ref(&mut faults, named).map(Some),
    };
    let kinds = each(&mut faults, "kinds", &message.kinds, MAX_CHOICES, |number| kind_from(*number));
    let states = each(&mut faults, "states", &message.states, MAX_CHOICES, |number| state_from(*number));
    let page = page(&mut faults, message.page_size, message.page_token);
    finish(faults, || {
        let filter = DeliveryFilter { kinds: kinds?, states: states? };
        Some(ListDeliveries { user: user?, filter, page: page? })
    })
}

pub(in crate::grpc) fn resend_delivery(mut message: v1::ResendDeliveryRequest) -> Result<ResendDelivery> {
    let mut faults = Violations::new();
    let key = std::mem::take(&mut message.idempotency_key);
    let idempotency = idempotency(&mut faults, &key, &message);
    let id = delivery_id(&mut faults, message.delivery_id);
    let note = note(&mut faults, &message.note);
    finish(faults, || Some(ResendDelivery { id: id?, note: note?, idempotency: idempotency? }))
}

pub(in crate::grpc) fn cancel_delivery(message: v1::CancelDeliveryRequest) -> Result<CancelDelivery> {
    let mut faults = Violations::new();
    let id = delivery_id(&mut faults, message.delivery_id);
    let note = note(&mut faults, &message.note);
    finish(faults, || Some(CancelDelivery { id: id?, note: note? }))
}

pub(in crate::grpc) fn send_verification(
    mut message: v1::SendEmailVerificationRequest,
) -> Result<SendEmailVerification> {
    let mut faults = Violations::new();
    let key = std::mem::take(&mut message.idempotency_key);
    let idempotency = idempotency(&mut faults, &key, &message);
    let user = user_ref(&mut faults, message.user);
    let note = note(&mut faults, &message.note);
    finish(faults, || Some(SendEmailVerification { user: user?, note: note?, idempotency: idempotency? }))
}

fn delivery_id(faults: &mut Violations, text: String) -> Option<DeliveryId> {
    let text = faults.require("delivery_id", (!text.is_empty()).then_some(text))?;
    faults.check("delivery_id", text.parse())
}

/// Converts a message to a user.
pub(in crate::grpc) fn delivery(known: &Delivery) -> v1::Delivery {
    let words = known.last_words.clone();
    let (last_error, relay_answer) = match known.state {
        DeliveryState::Accepted => (String::new(), words),
        _ => (words, String::new()),
    };
    v1::Delivery {
        id: known.id.to_string(),
        user_id: known.user_id.to_string(),
        kind: kind(known.letter.kind()).into(),
        address: known.address.clone(),
        state: state(known.state).into(),
        attempts: count(known.attempts),
        last_error,
        create_time: Some(stamp(known.created_at)),
        update_time: Some(stamp(known.updated_at)),
        // While a message is being sent, this is when the attempt of a worker that crashed is repeated.
        next_attempt_time: known.next_attempt_at.filter(|_| known.state != DeliveryState::Sending).map(stamp),
        expire_time: known.expires_at.map(stamp),
        link_end_time: known.link_ended_at.map(stamp),
        resend_allowed_time: Some(stamp(known.resend_allowed_at())),
        resend_of: known.resend_of.map(|id| id.to_string()).unwrap_or_default(),
        relay: known.relay.clone(),
        relay_answer,
        obstacle: obstacle(known.obstacle()).into(),
        notice: known.letter.notice().unwrap_or_default().to_owned(),
    }
}

fn obstacle(obstacle: Option<Obstacle>) -> v1::DeliveryObstacle {
    match obstacle {
        None => v1::DeliveryObstacle::Unspecified,
        Some(Obstacle::Relay) => v1::DeliveryObstacle::Relay,
        Some(Obstacle::Address) => v1::DeliveryObstacle::Address,
        Some(Obstacle::Mailbox) => v1::DeliveryObstacle::Mailbox,
        Some(Obstacle::Message) => v1::DeliveryObstacle::Message,
    }
}

/// Converts the state of the outbox.
pub(in crate::grpc) fn mail_status(queue: MailQueue) -> v1::GetMailStatusResponse {
    use v1::get_mail_status_response::Transport;
    let MailQueue { transport, links_enabled, queue } = queue;
    let transport = match transport {
        crate::app::MailTransport::Off => Transport::Off,
        crate::app::MailTransport::File => Transport::File,
        crate::app::MailTransport::Smtp => Transport::Smtp,
    };
    let waiting: u64 = queue.waiting.iter().map(|(_, messages)| *messages).sum();
    v1::GetMailStatusResponse {
        transport: transport.into(),
        waiting: i64::try_from(waiting).unwrap_or(i64::MAX),
        oldest_time: queue.oldest.map(stamp),
        last_accepted_time: queue.last_accepted.map(stamp),
        last_failure_time: queue.last_failure.as_ref().map(|(at, _)| stamp(*at)),
        last_failure: queue.last_failure.map(|(_, error)| error).unwrap_or_default(),
        links_enabled,
    }
}

/// The kind of the message that carries a link.
pub(in crate::grpc) fn link_kind(purpose: LinkPurpose) -> v1::DeliveryKind {
    kind(crate::domain::delivery::LetterKind::of_link(purpose).kind())
}

fn kind(kind: DeliveryKind) -> v1::DeliveryKind {
    match kind {
        DeliveryKind::Invite => v1::DeliveryKind::Invite,
        DeliveryKind::PasswordReset => v1::DeliveryKind::PasswordReset,
        DeliveryKind::TemporaryPassword => v1::DeliveryKind::TemporaryPassword,
        DeliveryKind::EmailVerification => v1::DeliveryKind::EmailVerification,
        DeliveryKind::Notice => v1::DeliveryKind::Notice,
    }
}

fn kind_from(number: i32) -> std::result::Result<DeliveryKind, Wrong> {
    match v1::DeliveryKind::try_from(number) {
        Ok(v1::DeliveryKind::Invite) => Ok(DeliveryKind::Invite),
        Ok(v1::DeliveryKind::PasswordReset) => Ok(DeliveryKind::PasswordReset),
        Ok(v1::DeliveryKind::TemporaryPassword) => Ok(DeliveryKind::TemporaryPassword),
        Ok(v1::DeliveryKind::EmailVerification) => Ok(DeliveryKind::EmailVerification),
        Ok(v1::DeliveryKind::Notice) => Ok(DeliveryKind::Notice),
        Ok(v1::DeliveryKind::Unspecified) | Err(_) => Err(Wrong::Number),
    }
}

fn state(state: DeliveryState) -> v1::DeliveryState {
    match state {
        DeliveryState::Queued => v1::DeliveryState::Queued,
        DeliveryState::Sending => v1::DeliveryState::Sending,
        DeliveryState::Retrying => v1::DeliveryState::Retrying,
        DeliveryState::Accepted => v1::DeliveryState::Accepted,
        DeliveryState::Failed => v1::DeliveryState::Failed,
        DeliveryState::Expired => v1::DeliveryState::Expired,
        DeliveryState::Cancelled => v1::DeliveryState::Cancelled,
        DeliveryState::Unknown => v1::DeliveryState::Unknown,
    }
}

fn state_from(number: i32) -> std::result::Result<DeliveryState, Wrong> {
    match v1::DeliveryState::try_from(number) {
        Ok(v1::DeliveryState::Queued) => Ok(DeliveryState::Queued),
        Ok(v1::DeliveryState::Sending) => Ok(DeliveryState::Sending),
        Ok(v1::DeliveryState::Retrying) => Ok(DeliveryState::Retrying),
        Ok(v1::DeliveryState::Accepted) => Ok(DeliveryState::Accepted),
        Ok(v1::DeliveryState::Failed) => Ok(DeliveryState::Failed),
        Ok(v1::DeliveryState::Expired) => Ok(DeliveryState::Expired),
        Ok(v1::DeliveryState::Cancelled) => Ok(DeliveryState::Cancelled),
        Ok(v1::DeliveryState::Unknown) => Ok(DeliveryState::Unknown),
        Ok(v1::DeliveryState::Unspecified) | Err(_) => Err(Wrong::Number),
    }
}
