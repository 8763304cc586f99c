//! Access and refresh tokens that this service issues, and the keys that sign them.

use std::{path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Contradiction, values};
use crate::domain::{
    algorithm::{Algorithm, Ed25519Name},
    issuer_keys::ISSUER_ALGORITHMS,
    profile::ProfileClaim,
};

/// `issuer.*`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct IssuerSettings {
    /// The URL at which clients reach the token API: the `iss` of access tokens, the audience of
    /// client assertions, and the base of all URLs in the discovery document. Default
    /// `http://localhost:8080`.
    pub url: String,
    /// The name of this service: the `aud` of tokens it issues, and the name that the `aud` of a
    /// self-signed token must contain. If empty, a self-signed token that names an audience is
    /// refused. Default empty.
    pub audience: String,
    /// A folder of PEM files with private keys: the newest signs, all verify. The first key is
    /// created at the first start. Replicas must share the folder or have the same files in it.
    /// Default `signing-keys`.
    pub signing_keys_dir: PathBuf,
    /// The algorithm that signs access tokens, which also determines the type of new keys: `RS256`,
    /// `PS256`, `ES256`, `ES384` or `EdDSA`. Existing keys of another type in the folder keep their
    /// own algorithm. Default `RS256`.
    pub algorithm: SigningAlgorithm,
    /// The name of the Ed25519 algorithm in issued tokens and in the key set: `EdDSA`, which every
    /// library knows, or `Ed25519` (RFC 9864). In tokens and key sets of others, both names are
    /// accepted regardless of this setting. Default `EdDSA`.
    #[serde(deserialize_with = "values::parsed", serialize_with = "ed25519_name")]
    pub ed25519_name: Ed25519Name,
    /// How long a new key is published before it signs. Make it at least as long as any client
    /// caches the key set. Up to `7d`. Default `5m`.
    #[serde(with = "values::duration")]
    pub signing_key_delay: Duration,
    /// A file with a secret of at least 32 bytes, which signs tokens (HS256) instead of the keys.
    /// Discouraged: anyone who can verify such tokens can also sign them. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub hs256_secret_file: Option<PathBuf>,
    /// Lifetime of an access token. Default `30m`.
    #[serde(with = "values::duration")]
    pub access_token_lifetime: Duration,
    /// Lifetime of a refresh token. Default `60d`.
    #[serde(with = "values::duration")]
    pub refresh_token_lifetime: Duration,
    /// Whether a principal may have several logins at the same time; if not, a new login ends the
    /// older ones. Default true.
    pub multiple_tokens: bool,
    /// How many times per minute clients at one address may send wrong credentials to the token API
    /// before they have to wait; 0 means no limit. The address is that of the connection. Behind a
    /// proxy it is the proxy's address, so limit clients at the proxy and set this to 0. Over a
    /// Unix socket, the limit is per user of the connecting process. Default 60.
    pub failures_per_peer: u32,
    /// How many times per minute wrong credentials for one client (the `identifier` of an API key,
    /// the signer of an assertion) may be sent to the token API before that client has to wait; 0
    /// means no limit. Default 30.
    pub failures_per_identifier: u32,
    /// The profile fields that access tokens contain: any of `given_name`, `family_name` and
    /// `email`, each under its own name or another one, as in `given_name=first_name`. Default all
    /// three.
    #[serde(deserialize_with = "values::list")]
    pub profile_claims: Vec<String>,
    /// Lifetime of an API key unless its creation specifies another. Default `120d`.
    #[serde(with = "values::duration")]
    pub api_key_lifetime: Duration,
}

impl Default for IssuerSettings {
    fn default() -> Self {
        Self {
            url: "http://localhost:8080".to_owned(),
            audience: String::new(),
            signing_keys_dir: "signing-keys".into(),
            algorithm: SigningAlgorithm::default(),
            ed25519_name: Ed25519Name::default(),
            signing_key_delay: Duration::from_mins(5),
            hs256_secret_file: None,
            access_token_lifetime: Duration::from_mins(30),
            refresh_token_lifetime: Duration::from_hours(1440),
            multiple_tokens: true,
            failures_per_peer: 60,
            failures_per_identifier: 30,
            profile_claims: ["given_name", "family_name", "email"].map(str::to_owned).into(),
            api_key_lifetime: Duration::from_hours(120 * 24),
        }
    }
}

impl IssuerSettings {
    pub(super) fn contradictions(&self) -> Vec<Contradiction> {
        let mut found = Vec::new();
        let mut add =
            |key, reason: &str| found.push(Contradiction { key, reason: reason.to_owned() });
        if self.signing_key_delay > SIGNING_KEY_DELAY_LONGEST {
            add("issuer.signing_key_delay", "accepted is a duration up to 7d");
        }
        if self.hs256_secret_file.is_some() && self.algorithm != SigningAlgorithm::default() {
            add(
                "issuer.algorithm",
                "`issuer.hs256_secret_file` is set too, which means HS256; keep one of them",
            );
        }
        if let Some(fault) =
            self.profile_claims.iter().find_map(|claim| claim.parse::<ProfileClaim>().err())
        {
            add("issuer.profile_claims", &fault.to_string());
        }
        let lifetimes = [
            ("issuer.access_token_lifetime", self.access_token_lifetime),
            ("issuer.refresh_token_lifetime", self.refresh_token_lifetime),
            ("issuer.api_key_lifetime", self.api_key_lifetime),
        ];
        for (key, lifetime) in lifetimes {
            if !(LIFETIME_SHORTEST..=LIFETIME_LONGEST).contains(&lifetime) {
                add(key, "accepted is a duration from 1s to 100 years");
            }
        }
        if self.url.is_empty() || self.url.contains(char::is_whitespace) {
            add(
                "issuer.url",
                "accepted is the URL at which clients reach this service, such as https://auth.example.com",
            );
        }
        found
    }
}

const LIFETIME_SHORTEST: Duration = Duration::from_secs(1);
const LIFETIME_LONGEST: Duration = Duration::from_hours(100 * 366 * 24);

/// Longer than anyone caches a key set; an even longer delay would make a rotation look forgotten.
const SIGNING_KEY_DELAY_LONGEST: Duration = Duration::from_hours(7 * 24);

/// One of [`ISSUER_ALGORITHMS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigningAlgorithm(Algorithm);

impl SigningAlgorithm {
    /// The algorithm itself.
    pub const fn algorithm(self) -> Algorithm {
        self.0
    }
}

impl Default for SigningAlgorithm {
    fn default() -> Self {
        Self(Algorithm::Rs256)
    }
}

impl FromStr for SigningAlgorithm {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = name.parse().ok().filter(|algorithm| ISSUER_ALGORITHMS.contains(algorithm));
        found.map(Self).ok_or(
            "not an algorithm for access tokens; accepted are RS256, PS256, ES256, ES384 and EdDSA (for HS256 set \
             `issuer.hs256_secret_file`)",
        )
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn ed25519_name<S: Serializer>(name: &Ed25519Name, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.name())
}

impl Serialize for SigningAlgorithm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SigningAlgorithm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        values::parsed(deserializer)
    }
}
