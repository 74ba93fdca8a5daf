//! Access tokens that must be rejected: wrong algorithms, headers, claims, keys and forms.
//!
//! The test opens the seal like an intruder with the key file and signs with the server's own key, so each token is
//! rejected for its defect and not for its signature. The first test shows that signing works.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use latchkey::config::Database;
use latchkey::crypto::SealKey;
use latchkey::domain::key::{KeyPurpose, SealedKey};
use latchkey::proto::v1;
use latchkey::store::keys::key_list;
use latchkey::store::{Location, Store};
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{Harness, Person, refused};

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64URL_NOPAD.encode(bytes.as_ref())
}

fn part(token: &str, index: usize) -> Value {
    let encoded = token.split('.').nth(index).expect("a part");
    serde_json::from_slice(&BASE64URL_NOPAD.decode(encoded.as_bytes()).expect("base64url")).expect("JSON")
}

/// Another encoding of the same bytes: with a bit set in the last character that encodes nothing.
fn with_spare_bit(encoded: &str) -> String {
    assert!(!encoded.len().is_multiple_of(4), "all bits stand for something");
    let symbols = BASE64URL_NOPAD.specification().symbols;
    let (rest, last) = encoded.split_at(encoded.len() - 1);
    let number = symbols.find(last).expect("base64url");
    assert!(number.is_multiple_of(2), "it is set already");
    format!("{rest}{}", &symbols[number + 1..number + 2])
}

/// The order of the group of Ed25519 (RFC 8032, 5.1), little-endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// Another signature that satisfies the group equation: the second half is a number, here increased by the group order.
fn malleable_copy(signature: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let (point, number) = signature.split_at(32);
    let sums = number.iter().zip(ORDER).map(|(a, b)| {
        let [low, high] = (u16::from(*a) + u16::from(b) + carry).to_le_bytes();
        carry = u16::from(high);
        low
    });
    let sums: Vec<u8> = sums.collect();
    [point, &sums].concat()
}

/// The signature in the X.509 form of ECDSA: two numbers in DER.
fn in_der(signature: &[u8]) -> Vec<u8> {
    let tagged = |tag: u8, bytes: &[u8]| [&[tag, u8::try_from(bytes.len()).expect("short")], bytes].concat();
    // A number whose first bit is set would be negative.
    let number = |half: &[u8]| tagged(2, &[&[0][..usize::from(half[0] >> 7)], half].concat());
    let (first, second) = signature.split_at(32);
    tagged(0x30, &[number(first), number(second)].concat())
}

/// All sealed keys in the server's database.
async fn sealed_keys(h: &Harness) -> Vec<SealedKey> {
    let location = match &h.config.database {
        Database::Sqlite { path } => Location::Sqlite(path.clone()),
        Database::Postgres { url } => Location::Postgres(url.clone()),
    };
    let store = Store::connect(&location).await.expect("a database");
    key_list(store.reader(), false).await.expect("keys")
}

/// The server's signing key, from its database.
async fn server_key(h: &Harness) -> Ed25519KeyPair {
    let seal = SealKey::read(&h.config.seal_key_file).expect("the seal key");
    let keys = sealed_keys(h).await;
    let key = keys.iter().find(|key| key.purpose == KeyPurpose::Signing).expect("a signing key");
    let plain = seal.open(format!("Signing {}", key.id).as_bytes(), &key.sealed).expect("an open seal");
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(&plain).expect("a key")
}

/// The parts of a valid token, and keys to sign others with.
struct Forge {
    h: Harness,
    root: Person,
    header: Value,
    claims: Value,
    key: Ed25519KeyPair,
}

impl Forge {
    async fn open() -> Forge {
        let h = Harness::start().await;
        let root = h.admin().await;
        let key = server_key(&h).await;
        let (header, claims) = (part(&root.tokens.access_token, 0), part(&root.tokens.access_token, 1));
        Forge { h, root, header, claims, key }
    }

    /// Signs these texts with the server's key.
    fn sign(&self, header: &str, claims: &str) -> String {
        self.sign_encoded(&format!("{}.{}", encode(header), encode(claims)))
    }

    fn sign_encoded(&self, signed: &str) -> String {
        format!("{signed}.{}", encode(self.key.sign(signed.as_bytes())))
    }

    /// The valid token with changed header fields. A null value removes a field.
    fn with_header(&self, changes: Value) -> String {
        self.sign(&changed(&self.header, changes).to_string(), &self.claims.to_string())
    }

    fn with_claims(&self, changes: Value) -> String {
        self.sign(&self.header.to_string(), &changed(&self.claims, changes).to_string())
    }

    /// Checks that the server rejects the token both from callers and in introspection.
    async fn refuses(&self, what: &str, token: &str) {
        let client = self.h.stranger().await.bearing(token);
        let answer = client.auth().who_am_i(v1::WhoAmIRequest {}).await;
        let refusal = refused(answer, Code::Unauthenticated, "TOKEN_INVALID");
        assert_eq!(refusal.message, "the token is not valid for this server", "{what}: one answer for all");
        assert!(!self.introspected(token).await, "{what}");
    }

    async fn accepts(&self, what: &str, token: &str) {
        let client = self.h.stranger().await.bearing(token);
        let answer = client.auth().who_am_i(v1::WhoAmIRequest {}).await;
        assert!(answer.is_ok(), "{what}: {answer:?}");
        assert!(self.introspected(token).await, "{what}");
    }

    async fn introspected(&self, token: &str) -> bool {
        let request = v1::IntrospectTokenRequest { token: token.to_owned(), ..Default::default() };
        self.root.client.auth().introspect_token(request).await.expect("an answer").into_inner().active
    }
}

fn changed(object: &Value, changes: Value) -> Value {
    let mut object = object.clone();
    let members = object.as_object_mut().expect("an object");
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    for (name, value) in changes {
        if value.is_null() {
            members.remove(&name);
        } else {
            members.insert(name, value);
        }
    }
    object
}

#[tokio::test]
async fn a_token_that_is_taken_apart_and_signed_again_is_good() {
    let forge = Forge::open().await;
    forge.accepts("the same", &forge.sign(&forge.header.to_string(), &forge.claims.to_string())).await;
    forge.accepts("another jti", &forge.with_claims(json!({"jti": "another"}))).await;
    let reordered = format!(r#"{{"kid":{},"alg":"EdDSA","typ":"at+jwt"}}"#, forge.header["kid"]);
    forge.accepts("another order", &forge.sign(&reordered, &forge.claims.to_string())).await;
}

#[tokio::test]
async fn only_eddsa_is_an_algorithm() {
    let forge = Forge::open().await;
    let spellings = [
        "none",
        "None",
        "NONE",
        "nOnE",
        "",
        " none",
        "none ",
        "HS256",
        "HS512",
        "RS256",
        "PS256",
        "ES256",
        "Ed25519",
        "eddsa",
        "EDDSA",
        "EdDSA ",
        "EdDSA\u{0}",
    ];
    for alg in spellings {
        let token = forge.with_header(json!({"alg": alg}));
        forge.refuses(alg, &token).await;
        let unsigned = token.rsplit_once('.').expect("a signature").0;
        forge.refuses(alg, &format!("{unsigned}.")).await;
        forge.refuses(alg, unsigned).await;
    }
    for alg in [json!(null), json!(0), json!(["EdDSA"]), json!({"alg": "EdDSA"}), json!(true)] {
        forge.refuses(&alg.to_string(), &forge.with_header(json!({"alg": alg}))).await;
    }
}

#[tokio::test]
async fn the_public_key_is_no_shared_secret() {
    let forge = Forge::open().await;
    let public = forge.key.public_key().as_ref();
    let keys = forge.h.stranger().await.auth().get_signing_keys(v1::GetSigningKeysRequest::default()).await;
    let keys = keys.expect("keys").into_inner();
    let der = &keys.keys[0].public_key_der;
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64.encode(der));
    let encoded = encode(public);
    let forms: [&[u8]; 6] = [
        public,
        der,
        pem.as_bytes(),
        encoded.as_bytes(),
        keys.jwks_json.as_bytes(),
        &HEXLOWER.encode(public).into_bytes(),
    ];
    for alg in ["HS256", "EdDSA"] {
        for secret in forms {
            let header = changed(&forge.header, json!({"alg": alg}));
            let signed = format!("{}.{}", encode(header.to_string()), encode(forge.claims.to_string()));
            let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
            forge.refuses(alg, &format!("{signed}.{}", encode(mac))).await;
        }
    }
}

#[tokio::test]
async fn the_header_has_three_members_and_no_others() {
    let forge = Forge::open().await;
    let mine = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": encode(mine.public_key())});
    for more in [
        json!({"jwk": jwk}),
        json!({"jku": "http://127.0.0.1:1/keys"}),
        json!({"x5u": "http://127.0.0.1:1/chain"}),
        json!({"x5c": ["MIIB"]}),
        json!({"x5t": "abc"}),
        json!({"crit": ["exp"]}),
        json!({"crit": []}),
        json!({"b64": false}),
        json!({"cty": "JWT"}),
        json!({"zip": "DEF"}),
        json!({"nonsense": 1}),
    ] {
        forge.refuses(&more.to_string(), &forge.with_header(more.clone())).await;
        // Also with the key that the header itself contains.
        let header = changed(&forge.header, more.clone());
        let signed = format!("{}.{}", encode(header.to_string()), encode(forge.claims.to_string()));
        forge.refuses(&more.to_string(), &format!("{signed}.{}", encode(mine.sign(signed.as_bytes())))).await;
    }
    for typ in [json!(null), json!("JWT"), json!("at+JWT"), json!("application/at+jwt"), json!(""), json!(1)] {
        forge.refuses(&format!("typ {typ}"), &forge.with_header(json!({"typ": typ}))).await;
    }
    let kid = forge.header["kid"].as_str().expect("a kid").to_owned();
    // A key that the server has for another purpose than signing.
    let root = sealed_keys(&forge.h).await.into_iter().find(|key| key.purpose == KeyPurpose::Root).expect("a root key");
    for wrong in [
        json!(null),
        json!(""),
        json!(1),
        json!(kid.to_uppercase()),
        json!(format!("{kid} ")),
        json!(root.id.to_string()),
        json!("../../etc/passwd"),
        json!("' OR 1=1 --"),
        json!("0".repeat(26)),
    ] {
        forge.refuses(&format!("kid {wrong}"), &forge.with_header(json!({"kid": wrong}))).await;
    }
}

#[tokio::test]
async fn every_claim_is_required_and_of_its_type() {
    let forge = Forge::open().await;
    let names: Vec<String> = forge.claims.as_object().expect("claims").keys().cloned().collect();
    assert_eq!(names.len(), 14, "{names:?}");
    for name in names {
        let good = &forge.claims[&name];
        let others = [
            json!(null),
            json!(true),
            json!(1.5),
            json!({"a": 1}),
            json!([1]),
            if good.is_string() { json!(1) } else { json!("1") },
            if good.is_number() { json!(good.to_string()) } else { json!([[good]]) },
        ];
        for other in others {
            forge.refuses(&format!("{name} {other}"), &forge.with_claims(json!({&name: other.clone()}))).await;
        }
        // Present but null: different from absent, and as invalid.
        let mut claims = forge.claims.clone();
        claims[&name] = Value::Null;
        forge.refuses(&name, &forge.sign(&forge.header.to_string(), &claims.to_string())).await;
    }
    forge.refuses("a string as aud", &forge.with_claims(json!({"aud": "latchkey"}))).await;
    forge.refuses("one claim more", &forge.with_claims(json!({"admin": true}))).await;
}

#[tokio::test]
async fn issuer_times_session_and_user_are_judged() {
    let forge = Forge::open().await;
    let now = forge.claims["iat"].as_i64().expect("seconds");
    let others = forge.h.user("bob").await.tokens.access_token;
    for changes in [
        json!({"iss": "another"}),
        json!({"iss": ""}),
        json!({"iss": "Latchkey"}),
        json!({"nbf": now + 3600}),
        json!({"iat": now + 3600}),
        json!({"nbf": i64::MAX}),
        json!({"sid": ""}),
        json!({"sid": "nonsense"}),
    ] {
        forge.refuses(&changes.to_string(), &forge.with_claims(changes.clone())).await;
    }
    for (changes, reason) in [
        (json!({"exp": now - 1}), "TOKEN_EXPIRED"),
        (json!({"exp": 0}), "TOKEN_EXPIRED"),
        (json!({"exp": -1}), "TOKEN_EXPIRED"),
        (json!({"sid": "0".repeat(26)}), "SESSION_REVOKED"),
        (json!({"sub": part(&others, 1)["sub"]}), "SESSION_REVOKED"),
        (json!({"sid": part(&others, 1)["sid"]}), "SESSION_REVOKED"),
    ] {
        let token = forge.with_claims(changes.clone());
        let client = forge.h.stranger().await.bearing(&token);
        refused(client.auth().who_am_i(v1::WhoAmIRequest {}).await, Code::Unauthenticated, reason);
        assert!(!forge.introspected(&token).await, "{changes}");
    }
    // For another audience: active in introspection, but no credential at latchkey itself.
    for aud in [json!([]), json!(["another"]), json!(["latchkey", "another"]), json!(["latchkey", "latchkey"])] {
        let client = forge.h.stranger().await.bearing(&forge.with_claims(json!({"aud": aud})));
        refused(client.auth().who_am_i(v1::WhoAmIRequest {}).await, Code::Unauthenticated, "TOKEN_INVALID");
    }
}

#[tokio::test]
async fn no_claim_gives_a_scope_that_the_user_lacks() {
    let forge = Forge::open().await;
    let bob = forge.h.user("bob").await.tokens.access_token;
    let claims = changed(&part(&bob, 1), json!({"scope": "users.delete users.read", "roles": ["admin"]}));
    let token = forge.sign(&forge.header.to_string(), &claims.to_string());
    let client = forge.h.stranger().await.bearing(&token);
    let who = client.auth().who_am_i(v1::WhoAmIRequest {}).await.expect("bob").into_inner();
    assert!(who.scopes.is_empty(), "{who:?}");
}

#[tokio::test]
async fn a_name_that_stands_twice_is_no_choice() {
    let forge = Forge::open().await;
    let (header, claims) = (forge.header.to_string(), forge.claims.to_string());
    let twice = |text: &str, member: &str| text.replacen('{', &format!("{{{member},"), 1);
    for member in [r#""alg":"none""#, r#""alg":"EdDSA""#, r#""typ":"at+jwt""#, r#""kid":"x""#] {
        forge.refuses(member, &forge.sign(&twice(&header, member), &claims)).await;
    }
    for member in [r#""exp":99999999999"#, r#""sub":"x""#, r#""aud":["latchkey"]"#, r#""scope":"users.delete""#] {
        forge.refuses(member, &forge.sign(&header, &twice(&claims, member))).await;
    }
}

#[tokio::test]
async fn a_signature_is_the_servers_and_over_the_very_bytes() {
    let forge = Forge::open().await;
    let good = &forge.root.tokens.access_token;
    let [header, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let mine = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
    let signed = format!("{header}.{claims}");
    forge.refuses("another key", &format!("{signed}.{}", encode(mine.sign(signed.as_bytes())))).await;

    let other = Harness::start().await;
    let theirs = other.admin().await.tokens.access_token;
    forge.refuses("another server's token", &theirs).await;
    let their_signature = encode(server_key(&other).await.sign(signed.as_bytes()));
    forge.refuses("another server's key", &format!("{signed}.{their_signature}")).await;

    let raised = changed(&forge.claims, json!({"exp": 99_999_999_999_i64}));
    forge.refuses("other claims", &format!("{header}.{}.{signature}", encode(raised.to_string()))).await;
    let bytes = BASE64URL_NOPAD.decode(signature.as_bytes()).expect("base64url");
    for at in [0, 31, 32, 63] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        forge.refuses("a flipped bit", &format!("{signed}.{}", encode(&flipped))).await;
    }
    forge.refuses("in DER", &format!("{signed}.{}", encode(in_der(&bytes)))).await;
    forge.refuses("another number of the same effect", &format!("{signed}.{}", encode(malleable_copy(&bytes)))).await;
    for signature in [&bytes[..63], &[bytes.as_slice(), &[0]].concat(), &[0; 64], &[], &bytes[..32]] {
        forge.refuses("another length", &format!("{signed}.{}", encode(signature))).await;
    }
}

#[tokio::test]
async fn no_bit_is_set_that_stands_for_nothing() {
    let forge = Forge::open().await;
    // JSON allows trailing spaces, which leave room for such bits.
    let [header, claims] = [&forge.header, &forge.claims].map(|part| {
        let text = part.to_string();
        encode(if text.len().is_multiple_of(3) { text + " " } else { text })
    });
    let good = forge.sign_encoded(&format!("{header}.{claims}"));
    forge.accepts("none is set", &good).await;
    let (signed, signature) = good.rsplit_once('.').expect("a signature");
    forge.refuses("in the signature", &format!("{signed}.{}", with_spare_bit(signature))).await;
    // With the signature over exactly these characters.
    forge.refuses("in the header", &forge.sign_encoded(&format!("{}.{claims}", with_spare_bit(&header)))).await;
    forge.refuses("in the claims", &forge.sign_encoded(&format!("{header}.{}", with_spare_bit(&claims)))).await;
}

#[tokio::test]
async fn a_token_has_one_form() {
    let forge = Forge::open().await;
    let good = forge.root.tokens.access_token.clone();
    let [header, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let forms = [
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{signature}"),
        format!("{header}.{claims}"),
        format!("{header}.{claims}."),
        format!("{header}..{signature}"),
        format!(".{claims}.{signature}"),
        format!("{header}.{signature}.{claims}"),
        format!("{header}=.{claims}.{signature}"),
        format!("{header}.{claims}.{signature}="),
        format!("{header}.{claims}.{signature}=="),
        good[..good.len() - 1].to_owned(),
        good[1..].to_owned(),
        good[..good.len() / 2].to_owned(),
        good.to_uppercase(),
        good.replace('.', ":"),
        format!("\"{good}\""),
        "..".to_owned(),
        "...".to_owned(),
        "eyJhbGciOiJub25lIn0.e30.".to_owned(),
        "A".repeat(8000),
        format!("{}.{}.{}", encode("null"), encode("null"), encode("")),
        format!("{}.{}.{}", encode("[]"), encode("[]"), encode([0; 64])),
        forge.sign(&"[".repeat(3000), "{}"),
        forge.sign(&forge.header.to_string(), &"[".repeat(3000)),
        forge.sign(&forge.header.to_string(), "{}"),
        forge.sign("{}", &forge.claims.to_string()),
        forge.sign(&format!("{} {{}}", forge.header), &forge.claims.to_string()),
        forge.sign(&forge.header.to_string(), &format!("{} x", forge.claims)),
    ];
    for token in &forms {
        forge.refuses(&token[..token.len().min(60)], token).await;
    }
}
