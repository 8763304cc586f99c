//! The claims of a self-signed token, in either of two profiles:
//!
//! - `username`, `time` (integer seconds), `nonce` (string or integer): the wire format of `asymmetric_jwt_auth`;
//! - registered claims (RFC 7519): `iss` or `sub` is the username, `iat` the time, `jti` the nonce.
//!
//! A token may carry both as long as they agree. `exp`, `nbf`, `aud` (RFC 7519), `htm`, `htu` (RFC 9449),
//! `htq` and `content_digest` go with either.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::domain::{content_digest::ContentDigest, json, principal::Username, time::UnixSeconds};

/// What a self-signed token states, in one shape for both profiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Who signed it.
    pub username: Username,
    /// When it was signed.
    pub time: UnixSeconds,
    /// What makes it different from every other token of that principal; never empty. An integer nonce is in decimal.
    pub nonce: Box<str>,
    /// From this moment on it may not be used (`exp`, rounded down).
    pub expires_at: Option<UnixSeconds>,
    /// Before this moment it may not be used (`nbf`, rounded up).
    pub not_before: Option<UnixSeconds>,
    /// Whom it is meant for (`aud`).
    pub audience: Option<Audience>,
    /// The only HTTP method it may be used with (`htm`).
    pub method: Option<Box<str>>,
    /// The only URI it may be used at (`htu`), without query and fragment.
    pub uri: Option<Box<str>>,
    /// The SHA-256 of the only query it may be used with, in unpadded base64url (`htq`).
    pub query: Option<Box<str>>,
    /// The digest of the only body it may be used with (`content_digest`).
    pub content_digest: Option<ContentDigest>,
}

/// The value of `aud`: one name or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience(Vec<Box<str>>);

impl Audience {
    /// Whether `name` is one of them.
    pub fn names(&self, name: &str) -> bool {
        self.0.iter().any(|audience| **audience == *name)
    }
}

/// What is wrong with a token's claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsFault {
    /// The payload is not a JSON object in UTF-8, names a claim twice, or has a claim of the wrong type.
    #[error("the claims are not a JSON object with claims of the right types")]
    Mistyped,
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
    /// A claim that an access token of ours has.
    #[error("a claim is missing that access tokens of this service have")]
    Missing,
    /// Two claims that mean the same say different things.
    #[error("the claims contradict one another")]
    Contradictory,
}

impl Claims {
    pub(super) fn parse(payload: &[u8]) -> Result<Self, ClaimsFault> {
        let raw: RawClaims<'_> = json::object(payload).map_err(|_| ClaimsFault::Mistyped)?;
        let username = agreed(agreed(raw.username, raw.iss)?, raw.sub)?.ok_or(ClaimsFault::NoUsername)?;
        let time = agreed(raw.time.map(|time| UnixSeconds(time.0)), raw.iat.map(NumericDate::rounded_down))?;
        let nonce = agreed(raw.nonce.map(|nonce| nonce.0), raw.jti)?.filter(|nonce| !nonce.is_empty());
        Ok(Self {
            username: Username::new(&username).map_err(|_| ClaimsFault::BadUsername)?,
            time: time.ok_or(ClaimsFault::NoTime)?,
            nonce: nonce.ok_or(ClaimsFault::NoNonce)?.into(),
            expires_at: raw.exp.map(NumericDate::rounded_down),
            not_before: raw.nbf.map(NumericDate::rounded_up),
            audience: raw.aud,
            method: raw.htm.map(Into::into),
            uri: raw.htu.map(Into::into),
            query: raw.htq.map(Into::into),
            content_digest: raw.content_digest.map(|text| text.parse().map_err(|_| ClaimsFault::Mistyped)).transpose()?,
        })
    }
}

/// The one value that `left` and `right` give together; both may give it only if it is the same.
fn agreed<T: PartialEq>(left: Option<T>, right: Option<T>) -> Result<Option<T>, ClaimsFault> {
    match (left, right) {
        (Some(left), Some(right)) if left != right => Err(ClaimsFault::Contradictory),
        (left, right) => Ok(left.or(right)),
    }
}

#[derive(Default)]
struct RawClaims<'a> {
    username: Option<Cow<'a, str>>,
    time: Option<Seconds>,
    nonce: Option<Nonce<'a>>,
    iss: Option<Cow<'a, str>>,
    sub: Option<Cow<'a, str>>,
    iat: Option<NumericDate>,
    jti: Option<Cow<'a, str>>,
    exp: Option<NumericDate>,
    nbf: Option<NumericDate>,
    aud: Option<Audience>,
    htm: Option<Cow<'a, str>>,
    htu: Option<Cow<'a, str>>,
    htq: Option<Cow<'a, str>>,
    content_digest: Option<Cow<'a, str>>,
}

/// Written out because a derived one copies every string that it could borrow.
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
                        "time" => claim(&mut map, &mut claims.time, |time| time)?,
                        "nonce" => claim(&mut map, &mut claims.nonce, |nonce| nonce)?,
                        "iss" => claim(&mut map, &mut claims.iss, |Text(text)| text)?,
                        "sub" => claim(&mut map, &mut claims.sub, |Text(text)| text)?,
                        "iat" => claim(&mut map, &mut claims.iat, |date| date)?,
                        "jti" => claim(&mut map, &mut claims.jti, |Text(text)| text)?,
                        "exp" => claim(&mut map, &mut claims.exp, |date| date)?,
                        "nbf" => claim(&mut map, &mut claims.nbf, |date| date)?,
                        "aud" => claim(&mut map, &mut claims.aud, |audience| audience)?,
                        "htm" => claim(&mut map, &mut claims.htm, |Text(text)| text)?,
                        "htu" => claim(&mut map, &mut claims.htu, |Text(text)| text)?,
                        "htq" => claim(&mut map, &mut claims.htq, |Text(text)| text)?,
                        "content_digest" => claim(&mut map, &mut claims.content_digest, |Text(text)| text)?,
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(claims)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// Reads one claim into its place. A name that comes twice is an error: which one other readers take is anyone's guess.
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

/// A string, borrowed unless it holds escapes.
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(ScalarVisitor { expecting: "a string", integers: false }).map(Self)
    }
}

/// A string or an integer; the integer in decimal, so that `5` and `"5"` are one nonce.
struct Nonce<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Nonce<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor { expecting: "a string or an integer", integers: true }).map(Self)
    }
}

struct ScalarVisitor {
    expecting: &'static str,
    integers: bool,
}

impl ScalarVisitor {
    fn integer<E: serde::de::Error>(&self, integer: impl Into<i128>) -> Result<Cow<'static, str>, E> {
        if self.integers { Ok(Cow::Owned(integer.into().to_string())) } else { Err(E::custom("an integer instead of a string")) }
    }
}

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_u64<E: serde::de::Error>(self, integer: u64) -> Result<Self::Value, E> {
        self.integer(integer)
    }

    fn visit_i64<E: serde::de::Error>(self, integer: i64) -> Result<Self::Value, E> {
        self.integer(integer)
    }
}

/// Whole seconds; a fraction is a mistake, since the wire format of `time` has none.
#[derive(Deserialize)]
struct Seconds(i64);

/// A `NumericDate` (RFC 7519 section 2), which may have a fraction.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum NumericDate {
    Whole(i64),
    Fractional(f64),
}

impl NumericDate {
    fn rounded_down(self) -> UnixSeconds {
        match self {
            Self::Whole(seconds) => UnixSeconds(seconds),
            Self::Fractional(seconds) => UnixSeconds(saturating(seconds.floor())),
        }
    }

    fn rounded_up(self) -> UnixSeconds {
        match self {
            Self::Whole(seconds) => UnixSeconds(seconds),
            Self::Fractional(seconds) => UnixSeconds(saturating(seconds.ceil())),
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "`as` saturates, and a time at the edge of i64 is refused like any absurd one")]
const fn saturating(seconds: f64) -> i64 {
    seconds as i64
}

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
