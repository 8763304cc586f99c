//! Access and refresh tokens that this service gives out, and the keys that sign them.

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
    /// client assertions, and the base of all URLs in the discovery document. Default `http://localhost:8080`.
    pub url: String,
    /// The name of this service: the `aud` of tokens it issues, and what the `aud` of a
    /// self-signed token has to name. Default empty: a self-signed token that names an
    /// audience is refused.
    pub audience: String,
    /// A folder of PEM files with private keys: the newest signs, all verify. The first is made at
    /// the first start. Replicas share the folder, or have the same files in it. Default
    /// `signing-keys`.
    pub signing_keys_dir: PathBuf,
    /// What access tokens are signed with, and so the kind of keys that are made: `RS256`,
    /// `PS256`, `ES256`, `ES384` or `EdDSA`. Keys of another kind that are in the folder go on
    /// with their own algorithm. Default `RS256`.
    pub algorithm: SigningAlgorithm,
    /// What tokens and the key set call the algorithm of Ed25519 keys: `EdDSA`, which every
    /// library knows, or `Ed25519` (RFC 9864). Both are read, in tokens and key sets of
    /// others, whatever this says. Default `EdDSA`.
    #[serde(deserialize_with = "values::parsed", serialize_with = "ed25519_name")]
    pub ed25519_name: Ed25519Name,
    /// How long a new key is published before it signs: at least as long as anybody keeps a copy
    /// of the key set. Up to `7d`. Default `5m`.
    #[serde(with = "values::duration")]
    pub signing_key_delay: Duration,
    /// A file that holds a secret of at least 32 bytes, with which tokens are signed (HS256)
    /// instead of keys. Discouraged: whoever can verify them can also sign. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub hs256_secret_file: Option<PathBuf>,
    /// How long an access token may be used. Default `30m`.
    #[serde(with = "values::duration")]
    pub access_token_lifetime: Duration,
    /// How long a refresh token may be used. Default `60d`.
    #[serde(with = "values::duration")]
    pub refresh_token_lifetime: Duration,
    /// Whether a principal may be logged in more than once; otherwise a new login ends the older
    /// ones. Default true.
    pub multiple_tokens: bool,
    /// How often a minute the clients at one address may present wrong credentials to the token
    /// API before they have to wait; 0 is no limit. The address is that of the connection:
    /// behind a proxy it is the proxy's, so let that limit and set this to 0. Over a Unix
    /// socket, the user of the process at the other end counts instead. Default 60.
    pub failures_per_peer: u32,
    /// How often a minute wrong credentials may be presented to the token API in the name of one
    /// client (the `identifier` of an API key, the signer of an assertion) before it has to
    /// wait; 0 is no limit. Default 30.
    pub failures_per_identifier: u32,
    /// What of a principal's profile its access tokens state: out of `given_name`, `family_name`
    /// and `email`, each under its own name or another, as in `given_name=first_name`. Default
    /// all three.
    #[serde(deserialize_with = "values::list")]
    pub profile_claims: Vec<String>,
    /// How long an API key may be used where nothing else is said. Default `120d`.
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

/// Longer than any copy of a key set is kept; with more, a rotation would seem to have been
/// forgotten.
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
