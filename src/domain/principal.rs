//! Principals: who may pass, and with which keys.

use std::{fmt, str::FromStr, sync::Arc};

use bytestring::ByteString;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::{
    header_value::{self, Prepared},
    key::{Fingerprint, VerifyingKey},
    scope::Scopes,
    time::UnixMillis,
    token::{TokenKeyId, UntrustedToken},
};

/// Defines a separate type for each kind of row id, so that they cannot be mixed up.
macro_rules! row_ids {
    ($($(#[$doc:meta])* $name:ident,)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )+};
}

row_ids! {
    /// Unique id of a principal. Never reused.
    PrincipalId,
    /// Unique id of a key.
    KeyId,
    /// Unique id of a trust.
    TrustId,
    /// Unique id of an API key.
    ApiKeyId,
    /// Unique id of a grant.
    GrantId,
}

/// The name of a principal: 1 to 255 characters without control characters, compared byte by byte.
/// Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Username(Arc<str>);

/// Maximum length of a username, in characters.
pub const USERNAME_CHARACTERS_MAX: usize = 255;

/// The text is empty, too long, or contains control characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a username has 1 to {USERNAME_CHARACTERS_MAX} characters and no control characters")]
pub struct BadUsername;

impl Username {
    /// Takes `text` as it is: it is not trimmed, case-folded or normalised.
    pub fn new(text: &str) -> Result<Self, BadUsername> {
        let length =
            if text.len() <= USERNAME_CHARACTERS_MAX { text.len() } else { text.chars().count() };
        if (1..=USERNAME_CHARACTERS_MAX).contains(&length) && !text.chars().any(char::is_control) {
            Ok(Self(text.into()))
        } else {
            Err(BadUsername)
        }
    }

    /// The username as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Serialize for Username {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl FromStr for Username {
    type Err = BadUsername;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A registered public key, as decisions use it.
#[derive(Debug)]
pub struct KnownKey {
    /// Unique id.
    pub id: KeyId,
    /// The public key, ready to verify signatures.
    pub key: VerifyingKey,
    /// The key must not be used before this time; `None` if there is no start.
    pub not_before: Option<UnixMillis>,
    /// The key must not be used at or after this time; `None` if it does not expire.
    pub expires_at: Option<UnixMillis>,
    /// The scopes of the key: the principal's scopes, narrowed by the key's own.
    pub scopes: Scopes,
    /// Fingerprint and scopes as header values.
    encoded: Prepared<2>,
}

impl KnownKey {
    /// Creates a key and prepares its header values.
    pub fn new(
        id: KeyId,
        key: VerifyingKey,
        scopes: Scopes,
        not_before: Option<UnixMillis>,
        expires_at: Option<UnixMillis>,
    ) -> Self {
        let encoded =
            Prepared::new([&key.fingerprint().to_string(), &header_value::encode_scopes(&scopes)]);
        Self { id, key, not_before, expires_at, scopes, encoded }
    }

    /// The fingerprint as a header value.
    pub fn encoded_id(&self) -> ByteString {
        self.encoded.value(0)
    }

    /// The scopes as a header value.
    pub fn encoded_scopes(&self) -> ByteString {
        self.encoded.value(1)
    }

    /// Whether the key may be used at `now`.
    pub fn is_current(&self, now: UnixMillis) -> bool {
        self.not_before.is_none_or(|from| from <= now)
            && self.expires_at.is_none_or(|until| now < until)
    }
}

/// A trusted key set: the keys in it count as the principal's.
#[derive(Clone, Debug)]
pub struct KnownTrust {
    /// Unique id.
    pub id: TrustId,
    /// The URL of the key set (JWKS).
    pub url: Arc<str>,
}

/// A principal with its usable keys, as cached in the key directory. Revoked keys are left out.
#[derive(Debug)]
pub struct KnownPrincipal {
    /// Unique id.
    pub id: PrincipalId,
    /// Unique name.
    pub username: Username,
    /// `false` if the principal is disabled: nothing it signs passes.
    pub is_active: bool,
    /// The principal's scopes.
    pub scopes: Scopes,
    /// Registered keys, newest first.
    pub keys: Box<[KnownKey]>,
    /// Trusts, oldest first.
    pub trusts: Box<[KnownTrust]>,
    /// The `jti` of its access tokens that were revoked before they expired, in ascending order.
    pub revoked: Box<[Uuid]>,
    /// Username, id and scopes as header values.
    encoded: Prepared<3>,
}

/// Maximum number of signature verifications for one token, over keys and trusts. Limits the cost
/// of a forged token.
pub const CANDIDATE_KEYS_MAX: usize = 8;

impl KnownPrincipal {
    /// Creates a principal without keys and trusts, and prepares its header values.
    pub fn new(id: PrincipalId, username: Username, is_active: bool, scopes: Scopes) -> Self {
        let name = header_value::encode(username.as_str());
        let encoded =
            Prepared::new([&name, &id.to_string(), &header_value::encode_scopes(&scopes)]);
        Self {
            id,
            username,
            is_active,
            scopes,
            keys: Box::default(),
            trusts: Box::default(),
            revoked: Box::default(),
            encoded,
        }
    }

    /// Replaces the keys; sorts them, newest first.
    #[must_use]
    pub fn with_keys(mut self, keys: Vec<KnownKey>) -> Self {
        self.keys = keys.into();
        self.keys.sort_by_key(|known| std::cmp::Reverse(known.id));
        self
    }

    /// Replaces the trusts; sorts them, oldest first.
    #[must_use]
    pub fn with_trusts(mut self, trusts: Vec<KnownTrust>) -> Self {
        self.trusts = trusts.into();
        self.trusts.sort_by_key(|known| known.id);
        self
    }

    /// Replaces the list of revoked access tokens, given by their `jti`; sorts it.
    #[must_use]
    pub fn with_revoked(mut self, mut revoked: Vec<Uuid>) -> Self {
        revoked.sort_unstable();
        self.revoked = revoked.into();
        self
    }

    /// The username as a header value.
    pub fn encoded_username(&self) -> ByteString {
        self.encoded.value(0)
    }

    /// The id as a header value.
    pub fn encoded_id(&self) -> ByteString {
        self.encoded.value(1)
    }

    /// The scopes as a header value.
    pub fn encoded_scopes(&self) -> ByteString {
        self.encoded.value(2)
    }

    /// Whether the access token `jti` was revoked.
    pub fn has_revoked(&self, jti: Uuid) -> bool {
        self.revoked.binary_search(&jti).is_ok()
    }

    /// The registered keys to try for `token`, with their indexes in [`KnownPrincipal::keys`]. A
    /// `kid` that is the fingerprint of a registered key selects that key. Without a `kid`, or with
    /// one from another naming scheme, every key that could have signed the token is tried, up to
    /// [`CANDIDATE_KEYS_MAX`].
    pub fn candidates<'a>(
        &'a self,
        token: &'a UntrustedToken<'_>,
        now: UnixMillis,
    ) -> impl Iterator<Item = (usize, &'a KnownKey)> {
        let named = self.named_key(token);
        self.keys
            .iter()
            .enumerate()
            .filter(move |(_, known)| self.is_active && known.is_current(now))
            .filter(move |(_, known)| {
                named.is_none_or(|fingerprint| known.key.fingerprint() == fingerprint)
            })
            .filter(|(_, known)| token.fits(&known.key))
            .take(CANDIDATE_KEYS_MAX)
    }

    /// The `kid` of `token`, if it is the fingerprint of a registered key. A `kid` from another
    /// naming scheme may look like a fingerprint, too.
    pub fn named_key(&self, token: &UntrustedToken<'_>) -> Option<Fingerprint> {
        match token.key_id() {
            Some(TokenKeyId::Fingerprint(named)) => {
                self.keys.iter().any(|known| known.key.fingerprint() == *named).then_some(*named)
            }
            Some(TokenKeyId::Name(_)) | None => None,
        }
    }

    /// The trusts whose key sets count, with their indexes; none if the principal is disabled.
    pub fn trusts_in_use(&self) -> impl Iterator<Item = (usize, &KnownTrust)> {
        let trusts = if self.is_active { &self.trusts[..] } else { &[] };
        trusts.iter().enumerate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usernames_are_bounded_and_free_of_control_characters() {
        assert!(Username::new("a").is_ok());
        assert!(Username::new(&"é".repeat(255)).is_ok());
        for bad in ["", "a\nb", "a\u{0}", "\u{7f}", "a\u{85}", &"é".repeat(256), &"a".repeat(256)]
        {
            assert_eq!(Username::new(bad), Err(BadUsername), "{bad:?}");
        }
    }
}
