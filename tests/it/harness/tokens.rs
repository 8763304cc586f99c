//! Honest and forged tokens, built byte by byte.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::keys::Key;

/// The content of a token. Starts as an honest one; tests then change what they are about.
#[derive(Debug, Clone)]
pub struct Claims {
    header: Map<String, Value>,
    payload: Map<String, Value>,
}

impl Claims {
    /// The claims of `asymmetric_jwt_auth`, with the current second and an unused nonce.
    pub fn of(username: &str) -> Self {
        Self::new(json!({"username": username, "time": now(), "nonce": nonce()}))
    }

    /// The registered claims, with the current second and an unused nonce.
    pub fn registered(username: &str) -> Self {
        Self::new(json!({"iss": username, "iat": now(), "jti": nonce()}))
    }

    /// The content of a token, to be changed and signed again.
    pub fn in_token(token: &str) -> Self {
        let [header, payload] = [0, 1].map(|index| {
            let part = token.split('.').nth(index).unwrap_or_default();
            object(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
        });
        Self { header, payload }
    }

    /// The compact JWS with the result of `seal` as its signature.
    pub fn sealed(&self, seal: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
        let [header, payload] =
            [&self.header, &self.payload].map(|part| encode(&Value::Object(part.clone())));
        let signed = format!("{header}.{payload}");
        let seal = URL_SAFE_NO_PAD.encode(seal(signed.as_bytes()));
        format!("{signed}.{seal}")
    }

    fn new(payload: Value) -> Self {
        Self { header: object(json!({"typ": "JWT"})), payload: object(payload) }
    }

    /// Sets a claim, or removes it with `Value::Null`.
    #[must_use]
    pub fn with(mut self, claim: &str, value: impl Into<Value>) -> Self {
        set(&mut self.payload, claim, value.into());
        self
    }

    /// Sets a member of the JOSE header, or removes it with `Value::Null`.
    #[must_use]
    pub fn with_header(mut self, member: &str, value: impl Into<Value>) -> Self {
        set(&mut self.header, member, value.into());
        self
    }

    /// The compact JWS. `alg` is the key's default unless the header already names another.
    pub fn sign(&self, key: &Key) -> String {
        let mut header = self.header.clone();
        let algorithm = header.entry("alg").or_insert_with(|| key.usual_algorithm().into());
        let algorithm = algorithm.as_str().unwrap_or_default().to_owned();
        let signed = format!(
            "{}.{}",
            encode(&Value::Object(header)),
            encode(&Value::Object(self.payload.clone()))
        );
        let signature = key.sign(&algorithm, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A value for `Authorization`.
    pub fn authorization(&self, key: &Key) -> String {
        format!("JWT {}", self.sign(key))
    }
}

/// Seconds since 1970.
pub fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    i64::try_from(time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap()
}

fn nonce() -> String {
    let mut bytes = [0; 12];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    URL_SAFE_NO_PAD.encode(bytes)
}

fn set(map: &mut Map<String, Value>, name: &str, value: Value) {
    if value.is_null() {
        map.remove(name);
    } else {
        map.insert(name.to_owned(), value);
    }
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("{value} is no object") };
    map
}

fn encode(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}
