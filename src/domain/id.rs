//! Typed ids: 128 random bits, written as 26 symbols of Crockford's base32 in lower case.
//!
//! The first symbol holds the highest bits, so texts sort like the bytes. Parsing is strict: each id has exactly one
//! text, so the text can be used as a key in a log, a cache or a URL.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Crockford's base32 in lower case, without i, l, o and u, which are easily misread.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Symbols of a text: 128 bits, five bits per symbol.
const SYMBOLS: usize = 26;

/// The text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id has {SYMBOLS} symbols, digits and lower-case letters without i, l, o and u")]
pub struct IdMalformed;

impl super::violation::Describe for IdMalformed {
    fn fault(&self) -> super::violation::Fault {
        super::violation::Fault::Malformed
    }
}

/// Encodes 16 bytes as text.
fn encode(bytes: [u8; 16]) -> [u8; SYMBOLS] {
    let mut rest = u128::from_be_bytes(bytes);
    let mut text = [0; SYMBOLS];
    for symbol in text.iter_mut().rev() {
        let low = usize::from(rest.to_le_bytes().first().copied().unwrap_or_default() & 0x1f);
        *symbol = ALPHABET.get(low).copied().unwrap_or_default();
        rest >>= 5;
    }
    text
}

/// Decodes a text written by [`encode`].
fn decode(text: &str) -> Result<[u8; 16], IdMalformed> {
    // 26 symbols hold 130 bits; the two highest bits must be zero.
    if text.len() != SYMBOLS || text.as_bytes().first().is_none_or(|first| *first > b'7') {
        return Err(IdMalformed);
    }
    let mut value: u128 = 0;
    for byte in text.bytes() {
        let symbol = ALPHABET.iter().position(|known| *known == byte).ok_or(IdMalformed)?;
        value = value << 5 | symbol as u128;
    }
    Ok(value.to_be_bytes())
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident,)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Creates an id from 16 bytes, which are random for a new id.
            pub const fn from_bytes(bytes: [u8; 16]) -> $name {
                $name(bytes)
            }

            /// The bytes as stored.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(std::str::from_utf8(&encode(self.0)).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }

        impl FromStr for $name {
            type Err = IdMalformed;

            fn from_str(text: &str) -> Result<$name, IdMalformed> {
                decode(text).map($name)
            }
        }
    )*};
}

ids! {
    /// Id of a user. Never reused.
    UserId,
    /// Id of a session.
    SessionId,
    /// Id of an API token. Part of the token, so that a leaked token can be traced to its row.
    ApiTokenId,
    /// Id of an audit event.
    EventId,
    /// Id of a signing key.
    KeyId,
    /// Id of a ticket. Not the secret that its holder presents.
    TicketId,
    /// Id of a link. Not the secret that its holder presents.
    LinkId,
    /// Id of a message to a user.
    DeliveryId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text() {
        for bytes in [[0; 16], [0xff; 16], *b"0123456789abcdef", [0x5a; 16]] {
            let id = UserId::from_bytes(bytes);
            assert_eq!(id.to_string().len(), 26);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn the_first_symbol_carries_the_high_bits() {
        assert_eq!(UserId::from_bytes([0xff; 16]).to_string(), "7zzzzzzzzzzzzzzzzzzzzzzzzz");
        assert_eq!(UserId::from_bytes(1_u128.to_be_bytes()).to_string(), "00000000000000000000000001");
        // The example of the ULID specification, in lower case.
        let ulid = "01arz3ndektsv4rrffq69g5fav";
        let bytes = 0x0156_3e3a_b5d3_d676_4c61_efb9_9302_bd5b_u128.to_be_bytes();
        assert_eq!(ulid.parse(), Ok(SessionId::from_bytes(bytes)));
    }

    #[test]
    fn text_sorts_as_the_bytes_do() {
        let mut ids: Vec<_> = (0..=255_u8).map(|n| KeyId::from_bytes([n.wrapping_mul(91); 16])).collect();
        ids.sort();
        assert!(ids.is_sorted_by_key(ToString::to_string));
    }

    #[test]
    fn an_id_has_one_text_only() {
        let wrong = [
            "",
            "0000000000000000000000000",
            "000000000000000000000000000",
            "80000000000000000000000000",
            "0000000000000000000000000A",
            "0000000000000000000000000i",
            "0000000000000000000000000l",
            "0000000000000000000000000o",
            "0000000000000000000000000u",
            "0000000000000-000000000000",
            " 0000000000000000000000000",
            "000000000000000000000000é",
        ];
        for text in wrong {
            assert_eq!(text.parse::<UserId>(), Err(IdMalformed), "{text:?}");
        }
    }
}
