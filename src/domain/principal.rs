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

/// Types of their own for the numbers that rows of the registry have, so that none is taken for
/// another.
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
    /// The number of a principal in the registry. It is never given to another.
    PrincipalId,
    /// The number of a key in the registry.
    KeyId,
    /// The number of a trust in the registry.
    TrustId,
    /// The number of an API key in the registry.
    ApiKeyId,
    /// The number of a grant in the registry.
    GrantId,
}

/// What a principal is called: 1 to 255 characters without control characters, compared byte for
/// byte. Copies share the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Username(Arc<str>);

/// Longest username, in characters.
pub const USERNAME_CHARACTERS_MAX: usize = 255;

/// A text that cannot be a username.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a username has 1 to {USERNAME_CHARACTERS_MAX} characters and no control characters")]
pub struct BadUsername;

impl Username {
    /// Takes `text` as it is: nothing is trimmed, folded or normalised.
    pub fn new(text: &str) -> Result<Self, BadUsername> {
        let length =
            if text.len() <= USERNAME_CHARACTERS_MAX { text.len() } else { text.chars().count() };
        if (1..=USERNAME_CHARACTERS_MAX).contains(&length) && !text.chars().any(char::is_control) {
            Ok(Self(text.into()))
        } else {
            Err(BadUsername)
        }
    }

    /// The name.
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

/// A registered public key as a decision needs it.
#[derive(Debug)]
pub struct KnownKey {
    /// Its number in the registry.
    pub id: KeyId,
    /// The key itself.
    pub key: VerifyingKey,
    /// From when on it may be used.
    pub not_before: Option<UnixMillis>,
    /// Until when it may be used.
    pub expires_at: Option<UnixMillis>,
    /// What may be done with it: the principal's scopes, narrowed by the key's.
    pub scopes: Scopes,
    /// Fingerprint and scopes as header values.
    encoded: Prepared<2>,
}

impl KnownKey {
    /// Puts a key together, with its header values ready.
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

    /// Whether it may be used at `now`.
    pub fn is_current(&self, now: UnixMillis) -> bool {
        self.not_before.is_none_or(|from| from <= now)
            && self.expires_at.is_none_or(|until| now < until)
    }
}

/// A key set elsewhere whose keys count as the principal's.
#[derive(Clone, Debug)]
pub struct KnownTrust {
    /// Its number in the registry.
    pub id: TrustId,
    /// Where the set is.
    pub url: Arc<str>,
}

/// A principal with its usable keys, as the key directory keeps it. Revoked keys are not in it.
#[derive(Debug)]
pub struct KnownPrincipal {
    /// Its number in the registry.
    pub id: PrincipalId,
    /// Its name.
    pub username: Username,
    /// Whether it may pass at all.
    pub is_active: bool,
    /// What it may do.
    pub scopes: Scopes,
    /// Its keys, the newest first.
    pub keys: Box<[KnownKey]>,
    /// Its trusts, the oldest first.
    pub trusts: Box<[KnownTrust]>,
    /// The `jti` of its access tokens that were revoked before they expired, in ascending order.
    pub revoked: Box<[Uuid]>,
    /// Name, number and scopes as header values.
    encoded: Prepared<3>,
}

/// How many verifications one token may cost at most, over keys and trusts: a forged token must not
/// buy more.
pub const CANDIDATE_KEYS_MAX: usize = 8;

impl KnownPrincipal {
    /// Puts a principal without keys and trusts together, with its header values ready.
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

    /// The same with `keys`.
    #[must_use]
    pub fn with_keys(mut self, keys: Vec<KnownKey>) -> Self {
        self.keys = keys.into();
        self.keys.sort_by_key(|known| std::cmp::Reverse(known.id));
        self
    }

    /// The same with `trusts`.
    #[must_use]
    pub fn with_trusts(mut self, trusts: Vec<KnownTrust>) -> Self {
        self.trusts = trusts.into();
        self.trusts.sort_by_key(|known| known.id);
        self
    }

    /// The same with the `jti` of `revoked` access tokens.
    #[must_use]
    pub fn with_revoked(mut self, mut revoked: Vec<Uuid>) -> Self {
        revoked.sort_unstable();
        self.revoked = revoked.into();
        self
    }

    /// The name as a header value.
    pub fn encoded_username(&self) -> ByteString {
        self.encoded.value(0)
    }

    /// The number as a header value.
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

    /// The registered keys to try for `token`, with their places in [`KnownPrincipal::keys`]. A
    /// `kid` that is the fingerprint of one picks it; without one, or with a name that some
    /// other scheme gave, every key that could have signed the token is tried, up to
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

    /// The `kid` of `token`, if it is the fingerprint of a registered key. Other names can look
    /// like fingerprints, too.
    pub fn named_key(&self, token: &UntrustedToken<'_>) -> Option<Fingerprint> {
        match token.key_id() {
            Some(TokenKeyId::Fingerprint(named)) => {
                self.keys.iter().any(|known| known.key.fingerprint() == *named).then_some(*named)
            }
            Some(TokenKeyId::Name(_)) | None => None,
        }
    }

    /// The trusts whose key sets count now.
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
