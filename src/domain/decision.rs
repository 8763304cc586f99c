//! Decisions, and the reasons for denying.

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

/// The name of one decision, a UUID version 7: in the answer, in the decision log, in traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecisionId(pub uuid::Uuid);

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

/// The answer to a gateway. There is no default one, and none that an error could turn into an
/// allow.
#[derive(Debug)]
pub enum Decision {
    /// The request may pass, and this is who asks.
    Allow(Identity),
    /// It may not.
    Deny(Denial),
}

/// Who asks, proven.
#[derive(Debug)]
pub struct Identity {
    principal: Arc<KnownPrincipal>,
    proof: Proof,
    method: AuthMethod,
    /// The digest that the request's body must have, as a header value; empty if any body may
    /// come.
    content_digest: ByteString,
}

/// What an identity was proven with.
#[derive(Debug)]
enum Proof {
    /// The registered key at this place in `principal.keys`.
    Key(usize),
    /// A key from the set of the trust at this place in `principal.trusts`.
    Trust {
        index: usize,
        /// The key's `kid` in that set, as a header value.
        encoded_key_id: ByteString,
    },
    /// An access token of ours.
    AccessToken {
        /// The `kid` of our key, as a header value.
        encoded_key_id: ByteString,
        /// What the token may be used for, where that is not all that the principal may do.
        narrowed: Option<Box<Narrowed>>,
    },
}

/// Scopes, also as a header value.
#[derive(Debug)]
struct Narrowed {
    scopes: Scopes,
    encoded: ByteString,
}

/// The row in the registry that an identity was proven with.
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
    /// The holder of the key at `key` in `principal.keys`; `None` where there is no such key.
    pub fn by_key(principal: Arc<KnownPrincipal>, key: usize) -> Option<Self> {
        let proof = (key < principal.keys.len()).then_some(Proof::Key(key))?;
        Some(Self {
            principal,
            proof,
            method: AuthMethod::SelfSigned,
            content_digest: ByteString::new(),
        })
    }

    /// The holder of the key `key_id` in the set of the trust at `index` in `principal.trusts`;
    /// `None` where there is no such trust.
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

    /// The holder of an access token of ours, which was signed with our key `encoded_key_id`, as a
    /// header value, and is for `scopes` at most.
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

    /// The same for a request with this body alone.
    #[must_use]
    pub fn for_body(mut self, digest: Option<&ContentDigest>) -> Self {
        self.content_digest = digest.map(|digest| digest.to_string().into()).unwrap_or_default();
        self
    }

    /// The principal.
    pub fn principal(&self) -> &KnownPrincipal {
        &self.principal
    }

    /// What it was proven with, where that is something that the principal has registered.
    pub fn used(&self) -> Option<Used> {
        match &self.proof {
            Proof::Key(index) => Some(Used::Key(self.principal.keys[*index].id)),
            Proof::Trust { index, .. } => Some(Used::Trust(self.principal.trusts[*index].id)),
            Proof::AccessToken { .. } => None,
        }
    }

    /// Until when what it was proven with may be used, if the registry says so: what it earns may
    /// not be used for longer.
    pub fn proof_expires_at(&self) -> Option<UnixMillis> {
        match &self.proof {
            Proof::Key(index) => self.principal.keys[*index].expires_at,
            Proof::Trust { .. } | Proof::AccessToken { .. } => None,
        }
    }

    /// The name of the key that it was proven with, as a header value: a fingerprint, the `kid` in
    /// a key set, or the `kid` of our own key that signed the access token.
    pub fn encoded_key_id(&self) -> ByteString {
        match &self.proof {
            Proof::Key(index) => self.principal.keys[*index].encoded_id(),
            Proof::Trust { encoded_key_id, .. } | Proof::AccessToken { encoded_key_id, .. } => {
                encoded_key_id.clone()
            }
        }
    }

    /// What the request's body must hash to, as a header value; empty if any body may come.
    pub fn content_digest(&self) -> ByteString {
        self.content_digest.clone()
    }

    /// How it was proven.
    pub const fn method(&self) -> AuthMethod {
        self.method
    }

    /// What it may do: with a registered key or an access token, what that narrows it to.
    pub fn scopes(&self) -> &Scopes {
        match &self.proof {
            Proof::Key(index) => &self.principal.keys[*index].scopes,
            Proof::AccessToken { narrowed: Some(narrowed), .. } => &narrowed.scopes,
            Proof::Trust { .. } | Proof::AccessToken { narrowed: None, .. } => {
                &self.principal.scopes
            }
        }
    }

    /// The same as a header value.
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
    /// An access token of ours.
    AccessToken,
}

impl AuthMethod {
    /// Every method, each at the index `method as usize`.
    pub const ALL: [Self; 2] = [Self::SelfSigned, Self::AccessToken];

    /// Whether what was presented passes once, so that the answer about it holds for this request
    /// alone.
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

/// A denial: the exact reason, and what the log may say of whom it concerns.
#[derive(Debug)]
pub struct Denial {
    /// Why.
    pub reason: DenialReason,
    /// The user that the token named. Proven by nothing.
    pub unverified_username: Option<Username>,
    /// Scopes that were asked for and are not held; known only where the reason is
    /// [`DenialReason::InsufficientScope`].
    pub missing_scopes: Option<Scopes>,
    /// What exactly is wrong with the token, if that shows.
    pub detail: Option<DenialDetail>,
}

/// What is wrong with a token by itself, whoever it names, or with the question: for the log, and
/// for whoever has to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DenialDetail {
    /// It is none that could be verified.
    Token(TokenFault),
    /// Its signature does not have the form that its algorithm wants.
    Signature(SignatureFault),
    /// Its signature has salt, of which the length is not known without costly work.
    Salt(Algorithm),
    /// Nothing: the gateway asks for something unknown.
    Misconfiguration(Box<str>),
}

impl DenialDetail {
    /// Why the signature of `token` may have failed, as far as it shows without a key.
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

/// What a client is told. Several reasons share a code where telling them apart would tell which
/// users exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenialCode {
    /// No credentials.
    MissingCredentials,
    /// Credentials that cannot be read.
    MalformedCredentials,
    /// An algorithm that is not accepted.
    UnsupportedAlgorithm,
    /// Credentials that prove nothing.
    InvalidToken,
    /// A time too far from now.
    TimestampOutsideTolerance,
    /// Past its `exp`.
    Expired,
    /// Used before.
    Replayed,
    /// Made for another request or service.
    RequestMismatch,
    /// A scope is lacking.
    InsufficientScope,
    /// Nothing was decided: a store is out of reach, or the question could not be taken.
    Unavailable,
    /// The gateway asks for something unknown.
    Misconfigured,
}

impl DenialCode {
    /// Every code.
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

    /// One sentence for the client's developer. It says no more than the code does.
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

    /// The status over HTTP: 401 who are you? 403 not you. 503 cannot tell. 500 the gateway is
    /// misconfigured.
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

/// Writes the reasons down once: variant, name, and the code that the client is told.
macro_rules! denial_reasons {
    ($($(#[$doc:meta])* $reason:ident = $name:literal => $code:ident,)+) => {
        /// The exact reason of a denial: for the decision log and the metrics, never for the client.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DenialReason {
            $($(#[$doc])* $reason,)+
        }

        impl DenialReason {
            /// Every reason, each at the index [`DenialReason::index`] gives.
            pub const ALL: &'static [Self] = &[$(Self::$reason,)+];

            /// What the client is told.
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
    /// The header is not there, or empty.
    NoCredentials = "no_credentials" => MissingCredentials,
    /// The header is there more than once, holds two credentials, or is not text.
    SeveralCredentials = "several_credentials" => MalformedCredentials,
    /// Another scheme than the one configured.
    WrongScheme = "wrong_scheme" => MalformedCredentials,
    /// Over the size cap.
    TokenTooLarge = "token_too_large" => MalformedCredentials,
    /// Not a compact JWS.
    NotAJws = "not_a_jws" => MalformedCredentials,
    /// Claims mistyped.
    ClaimsMistyped = "claims_mistyped" => MalformedCredentials,
    /// A claim that is needed is missing.
    ClaimMissing = "claim_missing" => MalformedCredentials,
    /// Claims that contradict one another.
    ClaimsContradictory = "claims_contradictory" => MalformedCredentials,
    /// A binding claim that the settings require is missing.
    BindingMissing = "binding_missing" => MalformedCredentials,
    /// `alg` outside the allow-list.
    AlgorithmNotAllowed = "algorithm_not_allowed" => UnsupportedAlgorithm,
    /// Nobody has that name.
    UnknownPrincipal = "unknown_principal" => InvalidToken,
    /// The principal is disabled.
    DisabledPrincipal = "disabled_principal" => InvalidToken,
    /// The principal has no key that could have signed this.
    NoMatchingKey = "no_matching_key" => InvalidToken,
    /// The principal trusts a key set that was never fetched, or not for too long, and no other key could have signed this.
    NoKeySet = "no_key_set" => InvalidToken,
    /// The signature is not of the key.
    BadSignature = "bad_signature" => InvalidToken,
    /// The access token was issued by another service, or for another issuer URL.
    ForeignIssuer = "foreign_issuer" => InvalidToken,
    /// The token is one of ours, but no access token.
    NotAnAccessToken = "not_an_access_token" => InvalidToken,
    /// The access token was signed with a key that is none of ours, or no longer.
    UnknownSigningKey = "unknown_signing_key" => InvalidToken,
    /// The access token was revoked.
    Revoked = "revoked" => InvalidToken,
    /// Signed too long ago.
    TooOld = "too_old" => TimestampOutsideTolerance,
    /// Signed too far in the future.
    TooNew = "too_new" => TimestampOutsideTolerance,
    /// Before its `nbf`.
    NotYetValid = "not_yet_valid" => TimestampOutsideTolerance,
    /// Signed before the nonce store lost its memory or the clock was set back: whether it was used cannot be told.
    Fenced = "fenced" => TimestampOutsideTolerance,
    /// Past its `exp`.
    Expired = "expired" => Expired,
    /// The nonce was claimed before.
    NonceClaimed = "nonce_claimed" => Replayed,
    /// `htm` is another method, or the gateway does not tell the method.
    MethodMismatch = "method_mismatch" => RequestMismatch,
    /// `htu` is another URI, or one that gateways read in different ways.
    UriMismatch = "uri_mismatch" => RequestMismatch,
    /// `htq` is the hash of another query, or the gateway does not tell the query.
    QueryMismatch = "query_mismatch" => RequestMismatch,
    /// `content_digest` is that of another body, or the gateway hands over only a part of it.
    DigestMismatch = "digest_mismatch" => RequestMismatch,
    /// `aud` does not name this service.
    AudienceMismatch = "audience_mismatch" => RequestMismatch,
    /// A scope that the route asks for is not held.
    InsufficientScope = "insufficient_scope" => InsufficientScope,
    /// The gateway's question is larger than what is taken (`server.grpc.max_message`), and was not read.
    RequestTooLarge = "request_too_large" => Unavailable,
    /// The gateway's question did not arrive whole within 5 seconds, or ended too early.
    RequestIncomplete = "request_incomplete" => Unavailable,
    /// More was asked at once than is taken (`server.max_in_flight`), and this question was not looked at.
    Overloaded = "overloaded" => Unavailable,
    /// The gateway's question has a query, a path or a name in `context_extensions` that is unknown, so it is not known what the route asks
    /// for. `detail` in the log says which.
    GatewayMisconfigured = "gateway_misconfigured" => Misconfigured,
}

impl DenialReason {
    /// Where this reason stands in [`DenialReason::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether nothing was decided, and it may be if asked again.
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
