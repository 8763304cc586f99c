//! The claims of a self-signed token, in either of two profiles:
//!
//! - `username`, `time` (seconds), `nonce` (string or number): the wire format of
//!   `asymmetric_jwt_auth`, whose clients before 1.0 send both as numbers with a fraction;
//! - registered claims (RFC 7519): `iss` or `sub` is the username, `iat` the time, `jti` the nonce.
//!
//! If the first three are present, they decide. Libraries add registered claims on their own, and
//! these can then only restrict the token: an `iat` with another time is a contradiction, and
//! `iss`, `sub` and `jti` are ignored. If one of the three is missing, the claims of both profiles
//! must agree. `exp`, `nbf`, `aud` (RFC 7519), `htm`, `htu` (RFC 9449), `htq` and `content_digest`
//! may be used with either profile.

use std::{borrow::Cow, fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use serde_json::value::RawValue;

use super::number;
use crate::domain::{
    content_digest::ContentDigest,
    json,
    principal::Username,
    time::{TokenTime, UnixSeconds},
};

/// How far `iat` may differ from `time`: libraries that add `iat` round it in different ways.
const SAME_TIME: Duration = Duration::from_secs(2);

/// The claims of a self-signed token, the same for both profiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The principal that claims to have signed the token.
    pub username: Username,
    /// When the token was signed.
    pub time: TokenTime,
    /// Distinguishes the token from every other one of the same principal; never empty. A number is
    /// compared by its digits.
    pub nonce: Box<str>,
    /// The token must not be used at or after this time (`exp`, rounded down).
    pub expires_at: Option<UnixSeconds>,
    /// The token must not be used before this time (`nbf`, rounded up).
    pub not_before: Option<UnixSeconds>,
    /// The intended audience (`aud`).
    pub audience: Option<Audience>,
    /// The only HTTP method that the token may be used with (`htm`).
    pub method: Option<Box<str>>,
    /// The only URI that the token may be used at (`htu`), without query and fragment.
    pub uri: Option<Box<str>>,
    /// The SHA-256 of the only query that the token may be used with, in unpadded base64url
    /// (`htq`).
    pub query: Option<Box<str>>,
    /// The digest of the only body that the token may be used with (`content_digest`).
    pub content_digest: Option<ContentDigest>,
}

/// The value of `aud`: one name or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience(Vec<Box<str>>);

impl Audience {
    /// Whether `name` is one of the audiences.
    pub fn names(&self, name: &str) -> bool {
        self.0.iter().any(|audience| **audience == *name)
    }
}

/// What is wrong with a token's claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsFault {
    /// The payload is not a JSON object in UTF-8, has a duplicate claim, or a claim of the wrong
    /// type.
    #[error("the claims are not a JSON object with claims of the right types")]
    Mistyped,
    /// This claim must be a time, and is not a JSON number.
    #[error("`{0}` is not a number: times are seconds since 1970, without quotes")]
    NotATime(&'static str),
    /// This claim must be text (or a number, if the claim allows one), and is not.
    #[error("`{0}` is not text (nonce may also be a number)")]
    NotText(&'static str),
    /// The payload begins with U+FEFF, which some editors and shells put at the start of files.
    #[error(
        "the payload begins with a byte order mark (BOM), which JSON may not (RFC 8259 section 8.1)"
    )]
    ByteOrderMark,
    /// No `username`, `iss` or `sub`.
    #[error("no claim names the user (username, or iss or sub)")]
    NoUsername,
    /// No `time` or `iat`.
    #[error("no claim gives the time (time, or iat)")]
    NoTime,
    /// No `nonce` or `jti`, or an empty one.
    #[error("no claim gives a nonce (nonce, or jti)")]
    NoNonce,
    /// A username longer than 255 characters, or with control characters.
    #[error("the username is empty, longer than 255 characters, or has control characters")]
    BadUsername,
    /// A claim that our access tokens always have is missing.
    #[error("a claim is missing that access tokens of this service have")]
    Missing,
    /// Two claims with the same meaning have different values.
    #[error("the claims contradict one another")]
    Contradictory,
}

impl Claims {
    pub(super) fn parse(payload: &[u8]) -> Result<Self, ClaimsFault> {
        let raw: RawClaims<'_> = json::object(payload).map_err(|_| fault_of(payload))?;
        let (time, iat) = (seconds("time", raw.time)?, seconds("iat", raw.iat)?);
        if let (Some(time), Some(iat)) = (time, iat)
            && !time.is_within(SAME_TIME, iat)
        {
            return Err(ClaimsFault::Contradictory);
        }
        let nonce = text_or_number("nonce", raw.nonce)?;
        let (username, nonce) = if raw.username.is_some() && time.is_some() && nonce.is_some() {
            (raw.username, nonce)
        } else {
            let named =
                agreed(agreed(raw.username, text("iss", raw.iss)?)?, text("sub", raw.sub)?)?;
            (named, agreed(nonce, text("jti", raw.jti)?)?)
        };
        let username = username.ok_or(ClaimsFault::NoUsername)?;
        let nonce = nonce.filter(|nonce| !nonce.is_empty());
        Ok(Self {
            username: Username::new(&username).map_err(|_| ClaimsFault::BadUsername)?,
            time: time.or(iat).ok_or(ClaimsFault::NoTime)?,
            nonce: nonce.ok_or(ClaimsFault::NoNonce)?.into(),
            expires_at: seconds("exp", raw.exp)?.map(TokenTime::seconds),
            not_before: seconds("nbf", raw.nbf)?.map(TokenTime::seconds_rounded_up),
            audience: raw.aud.and_then(|AudienceOrNull(audience)| audience),
            method: raw.htm.map(Into::into),
            uri: raw.htu.map(Into::into),
            query: raw.htq.map(Into::into),
            content_digest: raw
                .content_digest
                .map(|text| text.parse().map_err(|_| ClaimsFault::Mistyped))
                .transpose()?,
        })
    }
}

/// Why `payload` is not a valid JSON object of claims.
fn fault_of(payload: &[u8]) -> ClaimsFault {
    if payload.starts_with("\u{feff}".as_bytes()) {
        ClaimsFault::ByteOrderMark
    } else {
        ClaimsFault::Mistyped
    }
}

fn seconds(name: &'static str, claim: Option<&RawValue>) -> Result<Option<TokenTime>, ClaimsFault> {
    claim.map(|claim| number::seconds(claim).ok_or(ClaimsFault::NotATime(name))).transpose()
}

fn text<'a>(
    name: &'static str,
    claim: Option<&'a RawValue>,
) -> Result<Option<Cow<'a, str>>, ClaimsFault> {
    claim.map(|claim| json::string(claim.get()).map_err(|_| ClaimsFault::NotText(name))).transpose()
}

/// A number is kept by its digits, so that `5` and `"5"` are the same nonce, and numbers of any
/// size stay distinct.
fn text_or_number<'a>(
    name: &'static str,
    claim: Option<&'a RawValue>,
) -> Result<Option<Cow<'a, str>>, ClaimsFault> {
    match claim {
        Some(claim) if number::is_number(claim) => Ok(Some(Cow::Borrowed(claim.get()))),
        claim => text(name, claim),
    }
}

/// The value that `left` or `right` gives. If both are set, they must be equal.
fn agreed<T: PartialEq>(left: Option<T>, right: Option<T>) -> Result<Option<T>, ClaimsFault> {
    match (left, right) {
        (Some(left), Some(right)) if left != right => Err(ClaimsFault::Contradictory),
        (left, right) => Ok(left.or(right)),
    }
}

#[derive(Default)]
struct RawClaims<'a> {
    username: Option<Cow<'a, str>>,
    time: Option<&'a RawValue>,
    nonce: Option<&'a RawValue>,
    iss: Option<&'a RawValue>,
    sub: Option<&'a RawValue>,
    iat: Option<&'a RawValue>,
    jti: Option<&'a RawValue>,
    exp: Option<&'a RawValue>,
    nbf: Option<&'a RawValue>,
    aud: Option<AudienceOrNull>,
    htm: Option<Cow<'a, str>>,
    htu: Option<Cow<'a, str>>,
    htq: Option<Cow<'a, str>>,
    content_digest: Option<Cow<'a, str>>,
}

/// Written by hand because a derived one copies every string that it could borrow.
impl<'de: 'a, 'a> Deserialize<'de> for RawClaims<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = RawClaims<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object of claims")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut claims = RawClaims::default();
                while let Some(Text(name)) = map.next_key()? {
                    match &*name {
                        "username" => claim(&mut map, &mut claims.username, |Text(text)| text)?,
                        "time" => claim(&mut map, &mut claims.time, |value| value)?,
                        "nonce" => claim(&mut map, &mut claims.nonce, |value| value)?,
                        "iss" => claim(&mut map, &mut claims.iss, |value| value)?,
                        "sub" => claim(&mut map, &mut claims.sub, |value| value)?,
                        "iat" => claim(&mut map, &mut claims.iat, |value| value)?,
                        "jti" => claim(&mut map, &mut claims.jti, |value| value)?,
                        "exp" => claim(&mut map, &mut claims.exp, |value| value)?,
                        "nbf" => claim(&mut map, &mut claims.nbf, |value| value)?,
                        "aud" => claim(&mut map, &mut claims.aud, |audience| audience)?,
                        "htm" => claim(&mut map, &mut claims.htm, |Text(text)| text)?,
                        "htu" => claim(&mut map, &mut claims.htu, |Text(text)| text)?,
                        "htq" => claim(&mut map, &mut claims.htq, |Text(text)| text)?,
                        "content_digest" => {
                            claim(&mut map, &mut claims.content_digest, |Text(text)| text)?;
                        }
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(claims)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// Reads one claim into its field. A duplicate is an error: other readers may pick either value.
fn claim<'de, A: MapAccess<'de>, T: Deserialize<'de>, U>(
    map: &mut A,
    place: &mut Option<U>,
    convert: impl FnOnce(T) -> U,
) -> Result<(), A::Error> {
    if place.replace(convert(map.next_value()?)).is_some() {
        return Err(A::Error::custom("a claim is there twice"));
    }
    Ok(())
}

/// A string, borrowed unless it contains escapes.
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor).map(Self)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// Some serialisers write every member that they know. A null names no audience, and the systems
/// that this service replaces ignored it.
#[derive(Deserialize)]
struct AudienceOrNull(Option<Audience>);

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;

        impl<'de> Visitor<'de> for OneOrSeveral {
            type Value = Audience;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Audience(vec![text.into()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut names = Vec::new();
                while let Some(Text(name)) = seq.next_element()? {
                    names.push(name.into());
                }
                Ok(Audience(names))
            }
        }

        deserializer.deserialize_any(OneOrSeveral)
    }
}
