//! One download of one key set.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use reqwest::{Client, redirect};
use serde::Deserialize;
use url::Url;

use super::{
    egress::Egress,
    guard::{Forbidden, Guard},
};
use crate::{
    config::jwks::JwksSettings,
    domain::{
        json::{self, Object},
        key::{Jwk, KeyError, ParsedPublic, VerifyingKey},
    },
    roots::{Roots, RootsError},
};

/// Most keys that a set may have. More are no key set but an attack on memory.
const KEYS_MAX: usize = 100;
/// How deep the JSON of a key set may nest. A JWK Set (RFC 7517 section 5) needs 4: set, array, key, `x5c`.
const DEPTH_MAX: usize = 8;

/// The usable keys of a set, by `kid`.
pub(super) type KeySet = HashMap<Box<str>, Arc<VerifyingKey>>;

/// Fetches key sets, within all bounds.
#[derive(Debug)]
pub(super) struct Fetcher {
    guard: Guard,
    egress: Egress,
    /// Where the settings name some besides the system's.
    roots: Option<Roots>,
    client: OnceLock<Result<Client, Arc<ClientError>>>,
    timeout: Duration,
    max_bytes: usize,
}

/// The settings do not make a client.
#[derive(Debug, thiserror::Error)]
pub enum FetcherError {
    /// `jwks.ca_file` cannot be used.
    #[error("`jwks.ca_file` cannot be used")]
    CaFile(#[source] RootsError),
    /// A proxy that the environment names cannot be used.
    #[error("`jwks.proxy` is `environment`, and {name} cannot be used: {expected}")]
    ProxyVariable {
        /// The variable.
        name: &'static str,
        /// What is accepted.
        expected: &'static str,
    },
    /// The library does not take the proxy. It may say why by repeating it.
    #[error("`jwks.proxy` cannot be used")]
    Proxy,
    /// Nothing can be fetched with these settings on this system.
    #[error("key sets cannot be fetched: {0}")]
    Client(String),
}

impl From<reqwest::Error> for FetcherError {
    fn from(_: reqwest::Error) -> Self {
        Self::Proxy
    }
}

/// There is nothing to fetch with.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// No server could be verified.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The library does not make a client.
    #[error("the HTTP client could not be made")]
    Http(#[from] reqwest::Error),
}

/// Why there is no new key set.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// Not a URL.
    #[error("not a URL")]
    NotAUrl(#[source] url::ParseError),
    /// A URL that is not fetched.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// There is no client.
    #[error(transparent)]
    Client(Arc<ClientError>),
    /// The request failed.
    #[error("the request failed")]
    Request(#[source] reqwest::Error),
    /// The whole download took too long.
    #[error("the download took longer than {0:?}")]
    Timeout(Duration),
    /// An answer other than 200. Redirects are not followed: where they lead is not what is trusted.
    #[error("the answer was {0} instead of 200")]
    Status(u16),
    /// Too large.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// Nested too deeply.
    #[error("the JSON nests deeper than {DEPTH_MAX}")]
    TooDeep,
    /// Too many keys.
    #[error("the set has more than {KEYS_MAX} keys")]
    TooManyKeys,
    /// Not a JWK Set.
    #[error("not a JWK Set")]
    NotAKeySet(#[source] serde_json::Error),
    /// Reading it was given up.
    #[error("reading the set was abandoned: the service is stopping")]
    Abandoned,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

impl Fetcher {
    /// A fetcher as `settings` say.
    pub(super) fn new(settings: &JwksSettings) -> Result<Self, FetcherError> {
        let egress = Egress::new(settings.proxy.as_ref(), |name| std::env::var(name).ok())?;
        Ok(Self {
            guard: Guard::new(settings, &egress.hosts),
            egress,
            roots: settings.ca_file.as_deref().map(|file| Roots::load(Some(file))).transpose().map_err(FetcherError::CaFile)?,
            client: OnceLock::new(),
            timeout: settings.timeout,
            max_bytes: settings.max_bytes,
        })
    }

    /// Made when first needed: where nobody trusts a key set, the system needs no certificate authorities.
    pub(super) fn client(&self) -> Result<&Client, FetchError> {
        let made = self.client.get_or_init(|| self.make_client().map_err(Arc::new));
        made.as_ref().map_err(|error| FetchError::Client(Arc::clone(error)))
    }

    fn make_client(&self) -> Result<Client, ClientError> {
        let roots = match &self.roots {
            Some(roots) => roots.for_reqwest(),
            None => Roots::load(None)?.for_reqwest(),
        };
        // The library would look into the environment by itself.
        let direct = Client::builder().no_proxy();
        let builder = self.egress.proxies.iter().cloned().fold(direct, reqwest::ClientBuilder::proxy);
        let builder = builder
            .dns_resolver(Arc::new(self.guard.clone()))
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .tls_certs_only(roots)
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")));
        Ok(builder.build()?)
    }

    /// What `config check` says.
    pub(super) fn described(&self, settings: &JwksSettings) -> Option<String> {
        let roots = self.roots.as_ref().map(ToString::to_string);
        let notes: Vec<String> = roots.into_iter().chain(self.egress.described(settings.proxy.as_ref())).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }

    /// Whether `url` would be fetched, as far as the URL itself shows.
    pub(super) fn check_url(&self, url: &str) -> Result<(), FetchError> {
        let url = Url::parse(url).map_err(FetchError::NotAUrl)?;
        Ok(self.guard.check_url(&url)?)
    }

    /// Downloads the set at `url` and keeps its usable keys: RSA, EC and OKP keys with a `kid`, for signatures or unmarked.
    pub(super) async fn fetch(&self, url: &str) -> Result<KeySet, FetchError> {
        let named: Box<str> = url.into();
        let url = Url::parse(url).map_err(FetchError::NotAUrl)?;
        self.guard.check_url(&url)?;
        let body =
            tokio::time::timeout(self.timeout, self.download(url)).await.map_err(|_| FetchError::Timeout(self.timeout))??;
        // Up to a hundred keys are checked, which takes milliseconds: not on a thread that decides.
        tokio::task::spawn_blocking(move || usable_keys(&body, &named)).await.unwrap_or(Err(FetchError::Abandoned))
    }

    async fn download(&self, url: Url) -> Result<Vec<u8>, FetchError> {
        let request = self.client()?.get(url).header("accept", "application/jwk-set+json, application/json");
        let mut response = request.send().await.map_err(FetchError::Request)?;
        if response.status().as_u16() != 200 {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(FetchError::Request)? {
            if body.len() + chunk.len() > self.max_bytes {
                return Err(FetchError::TooLarge(self.max_bytes));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// A set with some unusable keys still serves its good ones. A `kid` that two keys share picks neither: which one is meant is
/// anyone's guess. A key with private members is published by mistake, and whoever has it may sign: it is not used.
pub(super) fn usable_keys(body: &[u8], url: &str) -> Result<KeySet, FetchError> {
    if nests_deeper_than(body, DEPTH_MAX) {
        return Err(FetchError::TooDeep);
    }
    let document: Document = json::object(body).map_err(FetchError::NotAKeySet)?;
    if document.keys.len() > KEYS_MAX {
        return Err(FetchError::TooManyKeys);
    }
    let mut keys: HashMap<Box<str>, Option<Arc<VerifyingKey>>> = HashMap::new();
    for Object(jwk) in document.keys.into_iter().filter_map(|key| serde_json::from_value::<Object<Jwk>>(key).ok()) {
        let Some(kid) = jwk.kid.as_deref().filter(|kid| !kid.is_empty()) else { continue };
        let key = usable(&jwk, url).map(Arc::new);
        keys.entry(kid.into()).and_modify(|shared| *shared = None).or_insert(key);
    }
    Ok(keys.into_iter().filter_map(|(kid, key)| Some((kid, key?))).collect())
}

/// Sets have keys for other uses and of other kinds, which is as it should be. A key that anybody could sign with is not.
fn usable(jwk: &Jwk, url: &str) -> Option<VerifyingKey> {
    let left_out = |error: &KeyError| {
        let kid = jwk.kid.as_deref();
        if matches!(error, KeyError::PrivateKeyGiven | KeyError::RsaTooSmall { .. } | KeyError::RsaOfBrokenGenerator) {
            tracing::warn!(url, kid, error = %error, "a key of a key set is left out");
        } else {
            tracing::debug!(url, kid, error = %error, "a key of a key set is left out");
        }
    };
    ParsedPublic::from_jwk(jwk).inspect_err(left_out).ok().map(|parsed| parsed.verifying_key())
}

/// Counts brackets outside of strings; whether the text is JSON is for the parser to say.
fn nests_deeper_than(json: &[u8], depth_max: usize) -> bool {
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > depth_max {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::{
        algorithm::{Algorithm, KeyFamily},
        key::{PrivateKey, broken_modulus},
    };

    const URL: &str = "https://keys.example/";

    fn jwk(family: KeyFamily, kid: &str) -> (PrivateKey, Value) {
        let key = PrivateKey::generate(family, 2048).unwrap();
        let mut jwk = serde_json::to_value(key.public_key().to_jwk()).unwrap();
        jwk["kid"] = kid.into();
        (key, jwk)
    }

    fn kids(keys: &[Value]) -> Vec<String> {
        let set = usable_keys(json!({ "keys": keys }).to_string().as_bytes(), URL).unwrap();
        let mut kids: Vec<String> = set.keys().map(ToString::to_string).collect();
        kids.sort();
        kids
    }

    #[test]
    fn good_keys_are_kept_and_bad_ones_left_out() {
        let good: Vec<Value> = KeyFamily::ALL.into_iter().map(|family| jwk(family, family.name()).1).collect();
        let with = |kid: &str, member: &str, value: Value| {
            let mut jwk = jwk(KeyFamily::Ed25519, kid).1;
            jwk[member] = value;
            jwk
        };
        let bad = [
            with("encrypts", "use", json!("enc")),
            with("signs", "key_ops", json!(["sign"])),
            with("mistyped operations", "key_ops", json!("verify")),
            json!({"kty": "RSA", "kid": "of the broken generator", "n": BASE64_URL_SAFE_NO_PAD.encode(broken_modulus(2048)), "e": "AQAB"}),
            with("private", "d", json!("AAAA")),
            with("", "x", json!("AAAA")),
            with("short", "x", json!("AAAA")),
            with("other algorithm", "alg", json!("RS256")),
            with("unknown algorithm", "alg", json!("none")),
            with("mistyped", "kty", json!(7)),
            json!({"kty": "oct", "kid": "symmetric", "k": "AAAA"}),
            json!("not an object"),
            array_form(&good[1]),
        ];
        assert_eq!(kids(&[good.clone(), bad.to_vec()].concat()), ["ed25519", "p256", "p384", "rsa"]);
        let mut unmarked = good[0].clone();
        unmarked.as_object_mut().unwrap().remove("use");
        unmarked.as_object_mut().unwrap().remove("alg");
        assert_eq!(kids(&[unmarked]), ["rsa"]);
        let named = [with("both", "key_ops", json!(["verify", "sign"])), with("RFC 9864", "alg", json!("Ed25519"))];
        assert_eq!(kids(&named), ["RFC 9864", "both"]);
    }

    /// The members of a key without their names, which a derived reader takes for the key.
    fn array_form(jwk: &Value) -> Value {
        assert_eq!(jwk["kty"], "OKP", "a key with a short form");
        json!([jwk["kty"], "sig", jwk["alg"], "array", jwk["crv"], null, null, jwk["x"], null, null])
    }

    #[test]
    fn a_set_is_an_object_in_utf8() {
        let key = jwk(KeyFamily::Ed25519, "good").1;
        assert!(usable_keys(json!({ "keys": [key] }).to_string().as_bytes(), URL).is_ok());
        assert!(matches!(usable_keys(json!([[key]]).to_string().as_bytes(), URL), Err(FetchError::NotAKeySet(_))));
        let with_bytes = [format!("{{\"keys\":[{key}],\"x\":\"").as_bytes(), b"\xff\"}"].concat();
        assert!(matches!(usable_keys(&with_bytes, URL), Err(FetchError::NotAKeySet(_))));
    }

    #[test]
    fn a_kid_that_two_keys_share_picks_neither() {
        let (first, second) = (jwk(KeyFamily::Ed25519, "same").1, jwk(KeyFamily::Ed25519, "same").1);
        assert_eq!(kids(&[first, jwk(KeyFamily::Ed25519, "other").1, second]), ["other"]);
    }

    #[test]
    fn a_key_that_names_its_algorithm_verifies_no_other() {
        let (key, mut jwk) = jwk(KeyFamily::Rsa, "rsa");
        jwk["alg"] = json!("PS256");
        let set = usable_keys(json!({ "keys": [jwk] }).to_string().as_bytes(), URL).unwrap();
        let sign = |algorithm| key.sign(algorithm, b"message").unwrap();
        assert!(set["rsa"].verify(Algorithm::Ps256, b"message", &sign(Algorithm::Ps256)));
        assert!(!set["rsa"].verify(Algorithm::Rs256, b"message", &sign(Algorithm::Rs256)));
        assert!(!set["rsa"].fits(Algorithm::Rs256, &sign(Algorithm::Rs256)));
    }

    #[test]
    fn what_is_no_key_set_is_refused() {
        let many: Vec<Value> = (0..=KEYS_MAX).map(|number| json!({"kid": number.to_string()})).collect();
        assert!(matches!(usable_keys(json!({ "keys": many }).to_string().as_bytes(), URL), Err(FetchError::TooManyKeys)));
        for body in ["", "[]", "{}", "{\"keys\": {}}", "<html>", "{\"keys\": [}"] {
            assert!(matches!(usable_keys(body.as_bytes(), URL), Err(FetchError::NotAKeySet(_))), "{body}");
        }
        let deep = format!("{{\"keys\": {}{}}}", "[".repeat(20), "]".repeat(20));
        assert!(matches!(usable_keys(deep.as_bytes(), URL), Err(FetchError::TooDeep)));
        assert!(
            usable_keys(br#"{"keys": [], "note": "[[[[[[[[[[[[[[\"[[[["}"#, URL).unwrap().is_empty(),
            "brackets in strings do not nest"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(body: Vec<u8>, text in "\\PC*") {
            let _ = usable_keys(&body, URL);
            let _ = usable_keys(format!("{{\"keys\": [{text}]}}").as_bytes(), URL);
        }
    }
}
