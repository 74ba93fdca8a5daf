//! Secrets issued by the server, and their digests.
//!
//! A secret has 256 random bits, so a plain SHA-256 is safe to store: it cannot be guessed. Each kind has a prefix, so
//! that secret scanners and people recognise it. Parsing is strict: the length is checked before anything is decoded,
//! and each secret has exactly one text.

use std::fmt;

use aws_lc_rs::{digest, hmac};
use data_encoding::BASE64URL_NOPAD;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::id::{ApiTokenId, SessionId};

/// Length of a secret and of a digest, in bytes.
const SECRET_BYTES: usize = 32;

/// The text is not a secret of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed; send it exactly as the server issued it")]
pub struct SecretMalformed;

/// A SHA-256 digest. Compared in constant time.
#[derive(Clone, Copy)]
pub struct Digest32([u8; 32]);

impl Digest32 {
    /// Computes the digest of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Digest32 {
        let mut digest = [0; 32];
        // SHA-256 yields 32 bytes, so the lengths match.
        digest.iter_mut().zip(digest::digest(&digest::SHA256, bytes).as_ref()).for_each(|(to, from)| *to = *from);
        Digest32(digest)
    }

    /// Creates a digest from its stored form.
    pub const fn from_bytes(bytes: [u8; 32]) -> Digest32 {
        Digest32(bytes)
    }

    /// The stored form.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for Digest32 {
    fn eq(&self, other: &Digest32) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Digest32 {}

macro_rules! plain_secrets {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal,)*) => {$(
        $(#[$doc])*
        #[derive(Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; SECRET_BYTES]);

        impl $name {
            /// Prefix of the text.
            pub const PREFIX: &str = $prefix;

            /// Creates a secret from 32 random bytes.
            pub const fn from_bytes(bytes: [u8; SECRET_BYTES]) -> $name {
                $name(bytes)
            }

            /// Parses the text that the holder sent.
            pub fn parse(text: &str) -> Result<$name, SecretMalformed> {
                let encoded = text.strip_prefix(Self::PREFIX).ok_or(SecretMalformed)?;
                // Decoded in place, so that no other copy needs wiping.
                let mut secret = $name([0; SECRET_BYTES]);
                decode(encoded, &mut secret.0)?;
                Ok(secret)
            }

            /// Digest by which the row is looked up.
            pub fn digest(&self) -> Digest32 {
                Digest32::sha256(&self.0)
            }

            /// The text, given to the holder once.
            pub fn expose(&self) -> Zeroizing<String> {
                encode(Self::PREFIX, &self.0)
            }
        }
    )*};
}

plain_secrets! {
    /// The secret of a ticket: `lkt_` and 43 symbols of base64url.
    TicketSecret = "lkt_",
    /// The secret of a link: `lkl_` and 43 symbols of base64url.
    LinkSecret = "lkl_",
    /// The secret that cancels the links of a mail: `lkc_` and 43 symbols of base64url.
    CancelSecret = "lkc_",
}

/// An API token: `lka_`, the 26 symbols of its id, `_`, and 43 symbols of base64url. The id makes it possible to revoke
/// a leaked token.
#[derive(ZeroizeOnDrop)]
pub struct ApiTokenSecret {
    #[zeroize(skip)]
    id: ApiTokenId,
    secret: [u8; SECRET_BYTES],
}

impl ApiTokenSecret {
    /// Prefix of the text.
    pub const PREFIX: &str = "lka_";

    /// Number of symbols of an id.
    const ID_SYMBOLS: usize = 26;

    /// Creates a token from an id and 32 random bytes.
    pub const fn new(id: ApiTokenId, secret: [u8; SECRET_BYTES]) -> ApiTokenSecret {
        ApiTokenSecret { id, secret }
    }

    /// Parses the text that the holder sent.
    pub fn parse(text: &str) -> Result<ApiTokenSecret, SecretMalformed> {
        let rest = text.strip_prefix(Self::PREFIX).ok_or(SecretMalformed)?;
        // Split by position, because base64url also contains '_'.
        let (id, rest) = rest.split_at_checked(Self::ID_SYMBOLS).ok_or(SecretMalformed)?;
        let encoded = rest.strip_prefix('_').ok_or(SecretMalformed)?;
        let id = id.parse().map_err(|_| SecretMalformed)?;
        let mut token = ApiTokenSecret { id, secret: [0; SECRET_BYTES] };
        decode(encoded, &mut token.secret)?;
        Ok(token)
    }

    /// Id of the row. Parsing proves nothing: compare the digest.
    pub fn id(&self) -> ApiTokenId {
        self.id
    }

    /// Digest that the row must contain.
    pub fn digest(&self) -> Digest32 {
        Digest32::sha256(&self.secret)
    }

    /// The text, returned to the holder once.
    pub fn expose(&self) -> Zeroizing<String> {
        encode(&format!("{}{}_", Self::PREFIX, self.id), &self.secret)
    }
}

/// A refresh token: `lkr_` and base64url of session id, key version, generation and MAC, each of fixed width. It needs
/// no table: the session row stores the generation, and the MAC authenticates the rest.
pub struct RefreshToken {
    session_id: SessionId,
    key_version: u16,
    generation: u32,
    mac: Zeroizing<[u8; 32]>,
}

impl RefreshToken {
    /// Prefix of the text.
    pub const PREFIX: &str = "lkr_";

    /// Decoded length in bytes: 16 + 2 + 4 + 32.
    const BYTES: usize = 54;

    /// Domain separator of the MAC, so that no other use of the same key yields this MAC.
    const DOMAIN: &[u8] = b"latchkey refresh token 1\0";

    /// Creates the token for one generation of a session.
    pub fn mint(key: &[u8; 32], key_version: u16, session_id: SessionId, generation: u32) -> RefreshToken {
        let mut token = RefreshToken { session_id, key_version, generation, mac: Zeroizing::new([0; 32]) };
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &token.message());
        token.mac.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        token
    }

    /// Parses the text that the holder sent. Proves nothing: see [`RefreshToken::verify`].
    pub fn parse(text: &str) -> Result<RefreshToken, SecretMalformed> {
        let encoded = text.strip_prefix(Self::PREFIX).ok_or(SecretMalformed)?;
        let mut bytes = Zeroizing::new([0; Self::BYTES]);
        decode(encoded, bytes.as_mut_slice())?;
        let (session_id, rest) = bytes.split_first_chunk().ok_or(SecretMalformed)?;
        let (key_version, rest) = rest.split_first_chunk().ok_or(SecretMalformed)?;
        let (generation, rest) = rest.split_first_chunk().ok_or(SecretMalformed)?;
        Ok(RefreshToken {
            session_id: SessionId::from_bytes(*session_id),
            key_version: u16::from_be_bytes(*key_version),
            generation: u32::from_be_bytes(*generation),
            mac: Zeroizing::new(rest.try_into().map_err(|_| SecretMalformed)?),
        })
    }

    /// Returns whether the token was made with `key`. Runs in constant time.
    pub fn verify(&self, key: &[u8; 32]) -> bool {
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), &self.message(), self.mac.as_slice()).is_ok()
    }

    /// The claimed session, unverified.
    pub fn session_id(&self) -> SessionId {
        self.session_id
    }

    /// Version of the claimed key, unverified.
    pub fn key_version(&self) -> u16 {
        self.key_version
    }

    /// The claimed generation of the session, unverified.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The text, returned to the holder.
    pub fn expose(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(Self::BYTES));
        bytes.extend_from_slice(&self.claims());
        bytes.extend_from_slice(self.mac.as_slice());
        encode(Self::PREFIX, &bytes)
    }

    /// Everything except the MAC. Not secret.
    fn claims(&self) -> Vec<u8> {
        let version = self.key_version.to_be_bytes();
        let generation = self.generation.to_be_bytes();
        [self.session_id.as_bytes().as_slice(), &version, &generation].concat()
    }

    /// The message that is authenticated. Every part has a fixed width, so different tokens have different messages.
    fn message(&self) -> Vec<u8> {
        [Self::DOMAIN, &self.claims()].concat()
    }
}

/// Joins the prefix and the base64url of `bytes`.
fn encode(prefix: &str, bytes: &[u8]) -> Zeroizing<String> {
    // Allocated with the final size, so that growing leaves no copy behind.
    let room = prefix.len() + BASE64URL_NOPAD.encode_len(bytes.len());
    let mut text = Zeroizing::new(String::with_capacity(room));
    text.push_str(prefix);
    BASE64URL_NOPAD.encode_append(bytes, &mut text);
    text
}

/// Decodes what follows the prefix. It must fill `bytes` exactly, and trailing bits must be zero.
fn decode(encoded: &str, bytes: &mut [u8]) -> Result<(), SecretMalformed> {
    // The length is checked first. Everything after it costs the same for every text.
    if encoded.len() != BASE64URL_NOPAD.encode_len(bytes.len()) {
        return Err(SecretMalformed);
    }
    BASE64URL_NOPAD.decode_mut(encoded.as_bytes(), bytes).map(|_| ()).map_err(|_| SecretMalformed)
}

/// Implements `Debug` so that it shows no secret.
macro_rules! redacted {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "([redacted])"))
            }
        }
    )*};
}

redacted! { Digest32 TicketSecret LinkSecret CancelSecret ApiTokenSecret RefreshToken }

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId::from_bytes([7; 16]);
    const KEY: [u8; 32] = [1; 32];

    /// Yields all texts that differ from `text` in one symbol, which is moved two places in the alphabet.
    fn tampered(text: &str) -> impl Iterator<Item = String> {
        let swap = |c: char| if c == 'B' { 'C' } else { 'B' };
        (0..text.len())
            .map(move |at| text.chars().enumerate().map(|(i, c)| if i == at { swap(c) } else { c }).collect())
    }

    #[test]
    fn sha_256_of_abc() {
        // FIPS 180-4, the one-block example.
        let digest = data_encoding::HEXLOWER.encode(Digest32::sha256(b"abc").as_bytes());
        assert_eq!(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(Digest32::sha256(b"abc") == Digest32::sha256(b"abc"));
        assert!(Digest32::sha256(b"abc") != Digest32::sha256(b"abd"));
    }

    #[test]
    fn a_ticket_survives_its_text() -> Result<(), SecretMalformed> {
        let ticket = TicketSecret::from_bytes([0xfb; 32]);
        let text = ticket.expose();
        assert_eq!(text.len(), 4 + 43);
        assert!(text.starts_with("lkt_-_v7"));
        assert_eq!(TicketSecret::parse(&text)?.digest(), ticket.digest());
        assert_eq!(ticket.digest(), Digest32::sha256(&[0xfb; 32]));
        Ok(())
    }

    #[test]
    fn an_api_token_survives_its_text() -> Result<(), SecretMalformed> {
        let id = ApiTokenId::from_bytes([9; 16]);
        let token = ApiTokenSecret::new(id, [0xff; 32]);
        let text = token.expose();
        assert_eq!(text.len(), 4 + 26 + 1 + 43);
        let parsed = ApiTokenSecret::parse(&text)?;
        assert_eq!((parsed.id(), parsed.digest()), (id, token.digest()));
        Ok(())
    }

    #[test]
    fn a_refresh_token_survives_its_text_and_knows_its_key() -> Result<(), SecretMalformed> {
        let text = RefreshToken::mint(&KEY, 3, SESSION, 70_000).expose();
        assert_eq!(text.len(), 4 + 72);
        let parsed = RefreshToken::parse(&text)?;
        assert_eq!((parsed.session_id(), parsed.key_version(), parsed.generation()), (SESSION, 3, 70_000));
        assert!(parsed.verify(&KEY));
        assert!(!parsed.verify(&[2; 32]));
        Ok(())
    }

    #[test]
    fn a_refresh_token_that_was_tampered_with_does_not_verify() {
        let text = RefreshToken::mint(&KEY, 3, SESSION, 70_000).expose();
        for forged in tampered(&text) {
            assert!(!RefreshToken::parse(&forged).is_ok_and(|token| token.verify(&KEY)), "{forged}");
        }
    }

    #[test]
    fn a_secret_has_one_text_only() {
        let ticket = TicketSecret::from_bytes([0; 32]).expose();
        let zeros = "A".repeat(43);
        assert_eq!(*ticket, format!("lkt_{zeros}"));
        let wrong = [
            String::new(),
            "lkt_".to_owned(),
            zeros.clone(),
            format!("LKT_{zeros}"),
            format!("lka_{zeros}"),
            format!("lkt_{zeros}="),
            format!("lkt_{zeros}A"),
            format!("lkt_{zeros} "),
            // 43 symbols hold 258 bits; the last two must be zero.
            format!("lkt_{}B", "A".repeat(42)),
            format!("lkt_{}+", "A".repeat(42)),
            format!("lkt_{}é", "A".repeat(41)),
        ];
        for text in wrong {
            assert!(TicketSecret::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_api_token_has_one_text_only() {
        let text = ApiTokenSecret::new(ApiTokenId::from_bytes([0; 16]), [0; 32]).expose();
        let wrong = [
            text.replace("lka_", "lkt_"),
            text.replacen('0', "o", 1),
            text.replacen("0_", "0A", 1),
            text.replacen('0', "é", 1),
            format!("{}é{}", "lka_0000000000000000000000000", "_AAAA"),
            format!("{}A", *text),
            "lka_".to_owned(),
        ];
        for text in wrong {
            assert!(ApiTokenSecret::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", TicketSecret::from_bytes([0; 32])), "TicketSecret([redacted])");
        assert_eq!(format!("{:?}", RefreshToken::mint(&KEY, 1, SESSION, 1)), "RefreshToken([redacted])");
        assert_eq!(format!("{:?}", Digest32::sha256(b"")), "Digest32([redacted])");
    }
}
