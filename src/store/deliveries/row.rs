//! Rows of messages, and the numbers in them.

use strum::VariantArray as _;

use crate::domain::delivery::{Delivery, DeliveryState, LetterKind};
use crate::error::{Resource, Result};
use crate::store::entity::delivery;
use crate::store::text::Decoder;

pub(super) fn decode(row: &delivery::Model) -> Result<Delivery> {
    let decoder = Decoder { resource: Resource::Delivery, id: &row.id, version: None };
    Ok(Delivery {
        id: decoder.parse(&row.id)?,
        user_id: decoder.parse(&row.user_id)?,
        letter: decoder.some(letter_from(row.letter))?,
        address: row.address.clone(),
        locale: row.locale.clone(),
        state: decoder.some(state_from(row.state))?,
        attempts: u32::try_from(row.attempts).unwrap_or(0),
        last_words: row.last_error.clone(),
        relay_failed: row.relay_failed,
        relay: row.relay.clone(),
        created_at: decoder.instant(row.created_at)?,
        updated_at: decoder.instant(row.updated_at)?,
        next_attempt_at: decoder.instant_or_none(row.next_attempt_at)?,
        expires_at: decoder.instant_or_none(row.expires_at)?,
        link_id: row.link_id.as_deref().map(|id| decoder.parse(id)).transpose()?,
        // In the row of the link: `with_link_ends` reads it.
        link_ended_at: None,
        resend_of: row.resend_of.as_deref().map(|id| decoder.parse(id)).transpose()?,
    })
}

pub(super) fn letter_number(letter: LetterKind) -> i16 {
    match letter {
        LetterKind::Invite => 1,
        LetterKind::PasswordReset => 2,
        LetterKind::TemporaryPassword => 3,
        LetterKind::EmailVerification => 4,
        LetterKind::PasswordChanged => 51,
        LetterKind::PasswordResetDone => 52,
        LetterKind::Compromised => 53,
        LetterKind::AddressChanged => 54,
        LetterKind::TotpEnrolled => 55,
        LetterKind::TotpDisabled => 56,
        LetterKind::SecondFactorReset => 57,
        LetterKind::RecoveryCodeUsed => 58,
        LetterKind::WrongCodes => 59,
        LetterKind::PasswordExpiring => 60,
        LetterKind::AccountInactive => 61,
    }
}

pub(super) fn letter_from(number: i16) -> Option<LetterKind> {
    LetterKind::VARIANTS.iter().copied().find(|letter| letter_number(*letter) == number)
}

/// Returns the number of a state in the API.
pub(super) fn state_number(state: DeliveryState) -> i16 {
    match state {
        DeliveryState::Queued => 1,
        DeliveryState::Sending => 2,
        DeliveryState::Retrying => 3,
        DeliveryState::Accepted => 4,
        DeliveryState::Failed => 5,
        DeliveryState::Expired => 6,
        DeliveryState::Cancelled => 7,
        DeliveryState::Unknown => 8,
    }
}

pub(super) fn state_from(number: i16) -> Option<DeliveryState> {
    DeliveryState::VARIANTS.iter().copied().find(|state| state_number(*state) == number)
}
