//! A compact JWS whose payload need not be our claims.
//!
//! `UntrustedToken::parse` requires claims, which the payloads of these vectors are not. So the
//! parts are split here, exactly as RFC 7515 section 5.2 says, and verified by the library. A JWS
//! with a form that the library's own parser refuses must be refused here, too: [`refused_by_form`]
//! asks it.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use countersign::domain::{
    algorithm::Algorithm,
    key::{Jwk, KeyError, ParsedPublic, VerifyingKey},
    token::{TokenFault, UntrustedToken},
};

/// Whether `jws` verifies with the key in `jwk`; the key decides what it may be used for.
pub fn verifies(jws: &str, jwk: &serde_json::Value) -> bool {
    key_of(jwk).is_ok_and(|key| verifies_with(jws, &key))
}

/// The key in `jwk`, read as the library always reads it.
pub fn key_of(jwk: &serde_json::Value) -> Result<VerifyingKey, KeyError> {
    let jwk: Jwk = serde_json::from_value(jwk.clone())
        .map_err(|_| KeyError::UnsupportedKind { found: "no JWK".to_owned() })?;
    ParsedPublic::from_jwk(&jwk).map(|parsed| parsed.verifying_key())
}

/// Whether `jws` verifies with `key`.
pub fn verifies_with(jws: &str, key: &VerifyingKey) -> bool {
    let parts: Vec<&str> = jws.split('.').collect();
    let [header, payload, signature] = parts[..] else { return false };
    let decoded = [header, payload, signature].map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
    let [Some(header_json), Some(_), Some(signature_bytes)] = decoded else { return false };
    let Ok(unverified_header) = serde_json::from_slice::<serde_json::Value>(&header_json) else {
        return false;
    };
    let Some(algorithm) =
        unverified_header["alg"].as_str().and_then(|alg| alg.parse::<Algorithm>().ok())
    else {
        return false;
    };
    key.verify(algorithm, format!("{header}.{payload}").as_bytes(), &signature_bytes)
}

/// Why the parser of tokens refuses `jws` before it uses a key; `None` if only its payload is not
/// our claims.
pub fn refused_by_form(jws: &str) -> Option<TokenFault> {
    match UntrustedToken::parse(jws) {
        Ok(_) | Err(TokenFault::Claims(_)) => None,
        Err(fault) => Some(fault),
    }
}
