//! Decisions, and the reasons for denials.

use std::{fmt, sync::Arc};

use bytestring::ByteString;
use serde::Serialize;

use super::{
    algorithm::Algorithm,
    auth_request::Misconfiguration,
    content_digest::ContentDigest,
    header_value,
    issuer_keys::KeyFault,
    principal::{ApiKeyId, KeyId, KnownPrincipal, TrustId, Username},
    scope::Scopes,
    time::UnixMillis,
    token::{ClaimsFault, SignatureFault, TokenFault, UntrustedToken},
};

/// Unique id of a decision, a UUID version 7. It is in the answer, the decision log and traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecisionId(pub uuid::Uuid);

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

/// The answer to a gateway. It has no default value, and no error can be converted into an allow.
#[derive(Debug)]
pub enum Decision {
    /// The request may pass, on behalf of this identity.
    Allow(Identity),
    /// The request may not pass.
    Deny(Denial),
}

/// The verified identity of the caller.
#[derive(Debug)]
pub struct Identity {
    principal: Arc<KnownPrincipal>,
    proof: Proof,
    method: AuthMethod,
    /// The digest that the request's body must have, as a header value; empty if any body is
    /// allowed.
    content_digest: ByteString,
}

/// What proved the identity.
#[derive(Debug)]
enum Proof {
    /// The index of the registered key in `principal.keys`.
    Key(usize),
    /// A key from the key set of a trust; `index` is the trust's position in `principal.trusts`.
    Trust {
        index: usize,
        /// The key's `kid` in that set, as a header value.
        encoded_key_id: ByteString,
    },
    /// An access token issued by this service.
    AccessToken {
        /// The `kid` of our key, as a header value.
        encoded_key_id: ByteString,
        /// The token's scopes, if they are fewer than the principal's.
        narrowed: Option<Box<Narrowed>>,
    },
}

/// Scopes, and the same scopes as a header value.
#[derive(Debug)]
struct Narrowed {
    scopes: Scopes,
    encoded: ByteString,
}

/// Id of the registry row that proved an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Used {
    /// A registered key.
    Key(KeyId),
    /// A trust.
    Trust(TrustId),
    /// An API key.
    ApiKey(ApiKeyId),
}

impl Identity {
    /// The identity of the holder of `principal.keys[key]`; `None` if there is no such key.
    pub fn by_key(principal: Arc<KnownPrincipal>, key: usize) -> Option<Self> {
        let proof = (key < principal.keys.len()).then_some(Proof::Key(key))?;
        Some(Self {
            principal,
            proof,
            method: AuthMethod::SelfSigned,
            content_digest: ByteString::new(),
        })
    }

    /// The identity of the holder of the key `key_id` from the key set of
    /// `principal.trusts[index]`; `None` if there is no such trust.
    pub fn by_trust(principal: Arc<KnownPrincipal>, index: usize, key_id: &str) -> Option<Self> {
        let encoded_key_id = header_value::encode(key_id).into();
        let proof =
            (index < principal.trusts.len()).then_some(Proof::Trust { index, encoded_key_id })?;
        Some(Self {
            principal,
            proof,
            method: AuthMethod::SelfSigned,
            content_digest: ByteString::new(),
        })
    }

    /// The identity of the holder of an access token issued by this service. `encoded_key_id` is
    /// the `kid` of our key that signed it, as a header value. The token grants at most `scopes`.
    pub fn by_access_token(
        principal: Arc<KnownPrincipal>,
        encoded_key_id: ByteString,
        scopes: &Scopes,
    ) -> Self {
        let narrowed = (*scopes != principal.scopes).then(|| {
            let scopes = principal.scopes.narrowed_by(scopes);
            Box::new(Narrowed { encoded: header_value::encode_scopes(&scopes).into(), scopes })
        });
        let proof = Proof::AccessToken { encoded_key_id, narrowed };
        Self {
            principal,
            proof,
            method: AuthMethod::AccessToken,
            content_digest: ByteString::new(),
        }
    }

    /// Allows only a request whose body has this digest.
    #[must_use]
    pub fn for_body(mut self, digest: Option<&ContentDigest>) -> Self {
        self.content_digest = digest.map(|digest| digest.to_string().into()).unwrap_or_default();
        self
    }

    /// The principal on whose behalf the request is made.
    pub fn principal(&self) -> &KnownPrincipal {
        &self.principal
    }

    /// The registered key or trust that proved the identity; `None` for an access token.
    pub fn used(&self) -> Option<Used> {
        match &self.proof {
            Proof::Key(index) => Some(Used::Key(self.principal.keys[*index].id)),
            Proof::Trust { index, .. } => Some(Used::Trust(self.principal.trusts[*index].id)),
            Proof::AccessToken { .. } => None,
        }
    }

    /// When the registered key that proved the identity expires; `None` if it does not, or if
    /// something else proved it. A token issued for this identity must not outlive it.
    pub fn proof_expires_at(&self) -> Option<UnixMillis> {
        match &self.proof {
            Proof::Key(index) => self.principal.keys[*index].expires_at,
            Proof::Trust { .. } | Proof::AccessToken { .. } => None,
        }
    }

    /// Id of the key that proved the identity, as a header value: a fingerprint, the `kid` in a key
    /// set, or the `kid` of our own key that signed the access token.
    pub fn encoded_key_id(&self) -> ByteString {
        match &self.proof {
            Proof::Key(index) => self.principal.keys[*index].encoded_id(),
            Proof::Trust { encoded_key_id, .. } | Proof::AccessToken { encoded_key_id, .. } => {
                encoded_key_id.clone()
            }
        }
    }

    /// The digest that the request's body must have, as a header value; empty if any body is
    /// allowed.
    pub fn content_digest(&self) -> ByteString {
        self.content_digest.clone()
    }

    /// How the request was authenticated.
    pub const fn method(&self) -> AuthMethod {
        self.method
    }

    /// The scopes of the identity: those of the registered key or the access token if it has its
    /// own, and otherwise the principal's.
    pub fn scopes(&self) -> &Scopes {
        match &self.proof {
            Proof::Key(index) => &self.principal.keys[*index].scopes,
            Proof::AccessToken { narrowed: Some(narrowed), .. } => &narrowed.scopes,
            Proof::Trust { .. } | Proof::AccessToken { narrowed: None, .. } => {
                &self.principal.scopes
            }
        }
    }

    /// The same scopes as a header value.
    pub fn encoded_scopes(&self) -> ByteString {
        match &self.proof {
            Proof::Key(index) => self.principal.keys[*index].encoded_scopes(),
            Proof::AccessToken { narrowed: Some(narrowed), .. } => narrowed.encoded.clone(),
            Proof::Trust { .. } | Proof::AccessToken { narrowed: None, .. } => {
                self.principal.encoded_scopes()
            }
        }
    }
}

/// How a request was authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthMethod {
    /// A self-signed, single-use token.
    SelfSigned,
    /// An access token issued by this service.
    AccessToken,
}

impl AuthMethod {
    /// All methods; each is at index `method as usize`.
    pub const ALL: [Self; 2] = [Self::SelfSigned, Self::AccessToken];

    /// Whether the credential passes only once, so that the answer is valid for this request alone.
    pub const fn is_single_use(self) -> bool {
        match self {
            Self::SelfSigned => true,
            Self::AccessToken => false,
        }
    }

    /// The value of `X-Auth-Method`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SelfSigned => "self_signed",
            Self::AccessToken => "access_token",
        }
    }
}

/// A denial: the exact reason, and what the log may say about it.
#[derive(Debug)]
pub struct Denial {
    /// The exact reason, for the log and metrics only.
    pub reason: DenialReason,
    /// The user that the token names. Not verified.
    pub unverified_username: Option<Username>,
    /// Required scopes that the caller does not have; set only if the reason is
    /// [`DenialReason::InsufficientScope`].
    pub missing_scopes: Option<Scopes>,
    /// What exactly is wrong with the token or the gateway's request, if known.
    pub detail: Option<DenialDetail>,
}

/// What is wrong with the token itself or with the gateway's request, regardless of the principal.
/// For the log, and for the person who fixes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DenialDetail {
    /// The token cannot be parsed.
    Token(TokenFault),
    /// The signature does not have the format of its algorithm.
    Signature(SignatureFault),
    /// The signature is salted, and finding out the length of its salt is expensive.
    Salt(Algorithm),
    /// The token is fine; the gateway asks for something unknown.
    Misconfiguration(Box<str>),
}

impl DenialDetail {
    /// Why the signature of `token` may have failed, as far as that can be seen without a key.
    pub fn of_signature(token: &UntrustedToken<'_>) -> Option<Self> {
        let algorithm = token.algorithm();
        let is_salted = matches!(algorithm, Algorithm::Ps512 | Algorithm::Ps384 | Algorithm::Ps256);
        token.signature_fault().map(Self::Signature).or(is_salted.then_some(Self::Salt(algorithm)))
    }
}

impl fmt::Display for DenialDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(fault) => fmt::Display::fmt(fault, f),
            Self::Signature(fault) => fmt::Display::fmt(fault, f),
            Self::Salt(algorithm) => write!(
                f,
                "the salt of {algorithm} has to be as long as its digest, which some libraries have an option for; `countersign explain` tells how long it is"
            ),
            Self::Misconfiguration(text) => f.write_str(text),
        }
    }
}

impl From<&Misconfiguration<'_>> for Denial {
    fn from(misconfiguration: &Misconfiguration<'_>) -> Self {
        let detail = DenialDetail::Misconfiguration(misconfiguration.to_string().into());
        Self { detail: Some(detail), ..DenialReason::GatewayMisconfigured.into() }
    }
}

impl From<DenialReason> for Denial {
    fn from(reason: DenialReason) -> Self {
        Self { reason, unverified_username: None, missing_scopes: None, detail: None }
    }
}

/// The code that a client receives. Several reasons share a code if telling them apart would reveal
/// which users exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenialCode {
    /// The request has no credentials.
    MissingCredentials,
    /// The credentials cannot be parsed.
    MalformedCredentials,
    /// The token's algorithm is not accepted.
    UnsupportedAlgorithm,
    /// The credentials do not prove an identity.
    InvalidToken,
    /// The token's time is too far from now.
    TimestampOutsideTolerance,
    /// The token has expired (`exp`).
    Expired,
    /// The token was used before.
    Replayed,
    /// The token was made for another request or service.
    RequestMismatch,
    /// A required scope is missing.
    InsufficientScope,
    /// No decision was made: a store is unreachable, or the gateway's request could not be
    /// processed.
    Unavailable,
    /// The gateway asks for something unknown.
    Misconfigured,
}

impl DenialCode {
    /// All codes.
    pub const ALL: [Self; 11] = [
        Self::MissingCredentials,
        Self::MalformedCredentials,
        Self::UnsupportedAlgorithm,
        Self::InvalidToken,
        Self::TimestampOutsideTolerance,
        Self::Expired,
        Self::Replayed,
        Self::RequestMismatch,
        Self::InsufficientScope,
        Self::Unavailable,
        Self::Misconfigured,
    ];

    /// The code on the wire: `X-Auth-Error`, `error="..."`, and the problem's `code`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MissingCredentials => "missing_credentials",
            Self::MalformedCredentials => "malformed_credentials",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::InvalidToken => "invalid_token",
            Self::TimestampOutsideTolerance => "timestamp_outside_tolerance",
            Self::Expired => "expired",
            Self::Replayed => "replayed",
            Self::RequestMismatch => "request_mismatch",
            Self::InsufficientScope => "insufficient_scope",
            Self::Unavailable => "unavailable",
            Self::Misconfigured => "misconfigured",
        }
    }

    /// One sentence for the client's developer. It reveals no more than the code does.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::MissingCredentials => "The request carries no credentials.",
            Self::MalformedCredentials => {
                "The credentials are not one well-formed token with the claims that are needed."
            }
            Self::UnsupportedAlgorithm => "The token's signature algorithm is not accepted.",
            Self::InvalidToken => "The token does not verify.",
            Self::TimestampOutsideTolerance => {
                "The token's time is too far from now; check the client's clock against the Date of this answer."
            }
            Self::Expired => "The token has expired.",
            Self::Replayed => "The token was used before; sign a new one for each request.",
            Self::RequestMismatch => "The token was made for another request or another service.",
            Self::InsufficientScope => "The credentials lack a scope that is required here.",
            Self::Unavailable => {
                "It cannot be decided now whether the request may pass; try again."
            }
            Self::Misconfigured => {
                "The gateway is misconfigured; its operator finds what is wrong in the decision log."
            }
        }
    }

    /// The HTTP status. 401: not authenticated; 403: a scope is missing; 503: no decision was
    /// possible; 500: the gateway is misconfigured.
    pub const fn status(self) -> u16 {
        match self {
            Self::InsufficientScope => 403,
            Self::Unavailable => 503,
            Self::Misconfigured => 500,
            Self::MissingCredentials
            | Self::MalformedCredentials
            | Self::UnsupportedAlgorithm
            | Self::InvalidToken
            | Self::TimestampOutsideTolerance
            | Self::Expired
            | Self::Replayed
            | Self::RequestMismatch => 401,
        }
    }
}

/// Defines each reason once: variant, name, and the code that the client receives.
macro_rules! denial_reasons {
    ($($(#[$doc:meta])* $reason:ident = $name:literal => $code:ident,)+) => {
        /// The exact reason of a denial, for the decision log and the metrics. Clients never see
        /// it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DenialReason {
            $($(#[$doc])* $reason,)+
        }

        impl DenialReason {
            /// All reasons; each is at index [`DenialReason::index`].
            pub const ALL: &'static [Self] = &[$(Self::$reason,)+];

            /// The code that the client receives.
            pub const fn code(self) -> DenialCode {
                match self {
                    $(Self::$reason => DenialCode::$code,)+
                }
            }

            /// The name in logs and metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)+
                }
            }
        }
    };
}

denial_reasons! {
    /// The header is missing or empty.
    NoCredentials = "no_credentials" => MissingCredentials,
    /// The header occurs more than once, holds two credentials, or is not text.
    SeveralCredentials = "several_credentials" => MalformedCredentials,
    /// The scheme is not the configured one.
    WrongScheme = "wrong_scheme" => MalformedCredentials,
    /// The token is larger than the size limit.
    TokenTooLarge = "token_too_large" => MalformedCredentials,
    /// The token is not a compact JWS.
    NotAJws = "not_a_jws" => MalformedCredentials,
    /// A claim has the wrong type, or the payload is not a JSON object.
    ClaimsMistyped = "claims_mistyped" => MalformedCredentials,
    /// A required claim is missing.
    ClaimMissing = "claim_missing" => MalformedCredentials,
    /// Two claims contradict each other.
    ClaimsContradictory = "claims_contradictory" => MalformedCredentials,
    /// A binding claim that the settings require is missing.
    BindingMissing = "binding_missing" => MalformedCredentials,
    /// `alg` is not on the allow-list.
    AlgorithmNotAllowed = "algorithm_not_allowed" => UnsupportedAlgorithm,
    /// There is no principal of that name.
    UnknownPrincipal = "unknown_principal" => InvalidToken,
    /// The principal is disabled.
    DisabledPrincipal = "disabled_principal" => InvalidToken,
    /// The principal has no key that could have signed this token.
    NoMatchingKey = "no_matching_key" => InvalidToken,
    /// The principal trusts a key set that was never fetched, or that was last fetched too long
    /// ago, and no other key could have signed this token.
    NoKeySet = "no_key_set" => InvalidToken,
    /// The signature does not verify with the key.
    BadSignature = "bad_signature" => InvalidToken,
    /// The access token was issued by another service, or for another issuer URL.
    ForeignIssuer = "foreign_issuer" => InvalidToken,
    /// The token was issued by this service, but is not an access token.
    NotAnAccessToken = "not_an_access_token" => InvalidToken,
    /// The access token was signed with a key that this service does not have, or no longer has.
    UnknownSigningKey = "unknown_signing_key" => InvalidToken,
    /// The access token was revoked.
    Revoked = "revoked" => InvalidToken,
    /// The token was signed too long ago.
    TooOld = "too_old" => TimestampOutsideTolerance,
    /// The token's time is too far in the future.
    TooNew = "too_new" => TimestampOutsideTolerance,
    /// The token is not valid yet (`nbf`).
    NotYetValid = "not_yet_valid" => TimestampOutsideTolerance,
    /// The token was signed before the nonce store lost its memory or the clock was set back, so it
    /// cannot be known whether it was used before.
    Fenced = "fenced" => TimestampOutsideTolerance,
    /// The token has expired (`exp`).
    Expired = "expired" => Expired,
    /// The nonce was claimed before.
    NonceClaimed = "nonce_claimed" => Replayed,
    /// `htm` names another method, or the gateway does not report the method.
    MethodMismatch = "method_mismatch" => RequestMismatch,
    /// `htu` names another URI, or one that gateways interpret in different ways.
    UriMismatch = "uri_mismatch" => RequestMismatch,
    /// `htq` is the hash of another query, or the gateway does not report the query.
    QueryMismatch = "query_mismatch" => RequestMismatch,
    /// `content_digest` is the digest of another body, or the gateway sends only a part of the
    /// body.
    DigestMismatch = "digest_mismatch" => RequestMismatch,
    /// `aud` does not name this service.
    AudienceMismatch = "audience_mismatch" => RequestMismatch,
    /// The route requires a scope that the caller does not have.
    InsufficientScope = "insufficient_scope" => InsufficientScope,
    /// The gateway's request is larger than the limit (`server.grpc.max_message`), and was not
    /// read.
    RequestTooLarge = "request_too_large" => Unavailable,
    /// The gateway's request did not arrive completely within 5 seconds, or ended too early.
    RequestIncomplete = "request_incomplete" => Unavailable,
    /// Too many requests were in flight (`server.max_in_flight`), and this one was not looked at.
    Overloaded = "overloaded" => Unavailable,
    /// The gateway's request has an unknown query, path or name in `context_extensions`, so it is
    /// not known which scopes the route requires. `detail` in the log says which.
    GatewayMisconfigured = "gateway_misconfigured" => Misconfigured,
}

impl DenialReason {
    /// The index of this reason in [`DenialReason::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether no decision was made, so that the gateway may try again.
    pub const fn is_undecided(self) -> bool {
        matches!(self.code(), DenialCode::Unavailable)
    }
}

impl From<KeyFault> for DenialReason {
    fn from(fault: KeyFault) -> Self {
        match fault {
            KeyFault::UnsupportedAlgorithm => Self::AlgorithmNotAllowed,
            KeyFault::UnknownKey => Self::UnknownSigningKey,
            KeyFault::BadSignature => Self::BadSignature,
        }
    }
}

impl From<&TokenFault> for DenialReason {
    fn from(fault: &TokenFault) -> Self {
        match fault {
            TokenFault::TooLarge => Self::TokenTooLarge,
            TokenFault::NotAJws(_) => Self::NotAJws,
            TokenFault::UnsupportedAlgorithm => Self::AlgorithmNotAllowed,
            TokenFault::Claims(
                ClaimsFault::Mistyped
                | ClaimsFault::NotATime(_)
                | ClaimsFault::NotText(_)
                | ClaimsFault::ByteOrderMark
                | ClaimsFault::BadUsername,
            ) => Self::ClaimsMistyped,
            TokenFault::Claims(
                ClaimsFault::NoUsername
                | ClaimsFault::NoTime
                | ClaimsFault::NoNonce
                | ClaimsFault::Missing,
            ) => Self::ClaimMissing,
            TokenFault::Claims(ClaimsFault::Contradictory) => Self::ClaimsContradictory,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_at_their_index() {
        for (index, reason) in DenialReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
    }

    #[test]
    fn nothing_tells_whether_a_user_exists() {
        for reason in [
            DenialReason::UnknownPrincipal,
            DenialReason::DisabledPrincipal,
            DenialReason::NoMatchingKey,
            DenialReason::NoKeySet,
            DenialReason::BadSignature,
            DenialReason::Revoked,
        ] {
            assert_eq!(reason.code(), DenialCode::InvalidToken);
        }
    }
}
