//! Failed TLS handshakes on the listeners: counted by reason, and logged with a hint on what to do.
//!
//! Anyone can cause failures, as often as they like. So each reason is logged at most once a second
//! per listener, with the last peer and the count: a flood of one kind does not hide another.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::connections::ListenerName;
use crate::config::server::TlsKeys;

/// Minimum time between two lines about the same reason.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The client sent no certificate, but one is required.
    NoCertificate,
    /// The client's certificate is not signed by a trusted authority.
    UnknownIssuer,
    /// The client's certificate is one of an authority, and not itself trusted.
    Authority,
    /// The client's certificate is one of a trusted authority, which may only sign others.
    SignsOnly,
    /// The client's certificate, or one in its chain, has expired.
    Expired,
    /// The client's certificate, or one in its chain, is not yet valid.
    NotYetValid,
    /// The client's certificate is for another purpose, such as for servers.
    WrongPurpose,
    /// The client's certificate is X.509 version 1.
    OldVersion,
    /// A signature is invalid: that of the certificate or of the handshake.
    BadSignature,
    /// Something else is wrong with the client's certificate.
    BadCertificate,
    /// The client rejected the certificate of this service.
    RefusedByClient,
    /// The received data is not TLS.
    NotTls,
    /// Client and service share no TLS version or algorithm.
    Incompatible,
    /// The client closed the connection during the handshake, as port checks do.
    Closed,
    /// Any other reason.
    Other,
}

impl HandshakeFailure {
    /// All reasons, in the order of `as usize`.
    pub const ALL: [Self; 15] = [
        Self::NoCertificate,
        Self::UnknownIssuer,
        Self::Authority,
        Self::SignsOnly,
        Self::Expired,
        Self::NotYetValid,
        Self::WrongPurpose,
        Self::OldVersion,
        Self::BadSignature,
        Self::BadCertificate,
        Self::RefusedByClient,
        Self::NotTls,
        Self::Incompatible,
        Self::Closed,
        Self::Other,
    ];

    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Authority => "authority",
            Self::SignsOnly => "signs_only",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongPurpose => "wrong_purpose",
            Self::OldVersion => "old_version",
            Self::BadSignature => "bad_signature",
            Self::BadCertificate => "bad_certificate",
            Self::RefusedByClient => "refused_by_client",
            Self::NotTls => "not_tls",
            Self::Incompatible => "incompatible",
            Self::Closed => "closed",
            Self::Other => "other",
        }
    }

    /// What happened and what to do, for a listener whose settings are named by `keys`.
    fn in_words(self, keys: TlsKeys) -> String {
        let TlsKeys { cert, client_ca, .. } = keys;
        match self {
            Self::NoCertificate => format!(
                "the client showed no certificate, which `{client_ca}` asks for; give it one, with its key (curl: `--cert`, `--key`)"
            ),
            Self::UnknownIssuer => format!(
                "the client's certificate is not signed by an authority in `{client_ca}`; add its authority there, or the certificate \
                 itself, or let the client send the intermediate certificates, too"
            ),
            Self::Authority => format!(
                "the client's own certificate is that of an authority (CA:TRUE, as `openssl req -x509` makes it) and is not itself in \
                 `{client_ca}`; add exactly this certificate there, or give the client one with `basicConstraints=critical,CA:FALSE` that \
                 an authority there signed"
            ),
            Self::SignsOnly => format!(
                "the client showed as its own the certificate of an authority in `{client_ca}`, whose key usage or name constraints \
                 leave it to sign others; make one for the client"
            ),
            Self::Expired => {
                "the client's certificate, or one that it depends on, has expired; renew it, or check the clock".to_owned()
            }
            Self::NotYetValid => {
                "the client's certificate, or one that it depends on, is not valid yet; check the clocks".to_owned()
            }
            Self::WrongPurpose => {
                "the client's certificate is not for clients; its extended key usage has to have `clientAuth`, or be absent"
                    .to_owned()
            }
            Self::OldVersion => {
                "the client's certificate is of X.509 version 1, which `openssl x509 -req` makes without `-extfile`; \
                 make it again with `openssl req -x509`"
                    .to_owned()
            }
            Self::BadSignature => format!(
                "a signature does not verify: the client's certificate names an authority in `{client_ca}` that did not sign it (another \
                 key under the same name?), or the client does not have the certificate's key"
            ),
            Self::BadCertificate => "the client's certificate cannot be used".to_owned(),
            Self::RefusedByClient => format!(
                "the client refuses the certificate of `{cert}`; it has to trust its authority, or the certificate itself, and to ask \
                 by a name that is in it"
            ),
            Self::NotTls => "what the client sent is not TLS; it has to use `https`, or TLS for gRPC".to_owned(),
            Self::Incompatible => {
                "the client has no version of TLS, or no algorithm, in common with this service; it needs TLS 1.2 or 1.3".to_owned()
            }
            Self::Closed => "the client went away".to_owned(),
            Self::Other => "the client does not keep to the protocol".to_owned(),
        }
    }
}

/// Counts failed handshakes of one listener.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    failed: [AtomicU64; HandshakeFailure::ALL.len()],
    lines: Mutex<[Line; HandshakeFailure::ALL.len()]>,
    /// Whether a line is waiting to be logged.
    has_untold: AtomicBool,
}

/// What the next line about a reason will say, and when the last one was logged.
#[derive(Debug, Default)]
struct Line {
    count: u64,
    last: Option<(String, String)>,
    told_at: Option<Instant>,
}

impl Handshakes {
    /// Records a handshake with `peer` that failed with the library's `error`.
    pub(super) fn failed(&self, failure: HandshakeFailure, peer: &dyn fmt::Display, error: String) {
        self.failed[failure as usize].fetch_add(1, Ordering::Relaxed);
        if failure == HandshakeFailure::Closed {
            // Health checks over TCP do just this.
            tracing::debug!(%peer, error, "the client went away during a TLS handshake");
            return;
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = &mut lines[failure as usize];
        line.count += 1;
        line.last = Some((peer.to_string(), error));
        self.has_untold.store(true, Ordering::Relaxed);
    }

    /// The number of failures for that reason.
    pub(super) fn count(&self, failure: HandshakeFailure) -> u64 {
        self.failed[failure as usize].load(Ordering::Relaxed)
    }

    pub(super) fn has_untold(&self) -> bool {
        self.has_untold.load(Ordering::Relaxed)
    }

    /// Logs the failures that are due.
    pub(super) fn tell(&self, listener: ListenerName, now: Instant) {
        if !self.has_untold() {
            return;
        }
        let keys = if listener == ListenerName::Admin { TlsKeys::ADMIN } else { TlsKeys::SERVER };
        for (failure, count, peer, error) in self.due(now) {
            let reason = failure.name();
            let words = failure.in_words(keys);
            tracing::warn!(listener = listener.name(), %peer, reason, count, error, "a TLS handshake failed: {words}");
        }
    }

    fn due(&self, now: Instant) -> Vec<(HandshakeFailure, u64, String, String)> {
        let mut due = Vec::new();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        for (failure, line) in HandshakeFailure::ALL.into_iter().zip(lines.iter_mut()) {
            if line.told_at.is_none_or(|told_at| now.duration_since(told_at) >= TELL_INTERVAL)
                && let Some((peer, error)) = line.last.take()
            {
                line.told_at = Some(now);
                due.push((failure, std::mem::take(&mut line.count), peer, error));
            }
        }
        self.has_untold.store(lines.iter().any(|line| line.last.is_some()), Ordering::Relaxed);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEERS: [&str; 3] = ["192.0.2.1:1", "192.0.2.2:2", "[2001:db8::3]:3"];

    fn peer(number: usize) -> String {
        PEERS[number].to_owned()
    }

    fn told(handshakes: &Handshakes, now: Instant) -> Vec<(HandshakeFailure, u64, String)> {
        handshakes
            .due(now)
            .into_iter()
            .map(|(failure, count, peer, _)| (failure, count, peer))
            .collect()
    }

    #[test]
    fn numbers_and_names_are_their_own() {
        for (number, failure) in HandshakeFailure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, number);
            assert_eq!(
                HandshakeFailure::ALL
                    .into_iter()
                    .filter(|other| other.name() == failure.name())
                    .count(),
                1
            );
            assert!(
                !failure.in_words(TlsKeys::SERVER).contains("admin."),
                "the listener's own settings"
            );
        }
        assert!(
            HandshakeFailure::NoCertificate
                .in_words(TlsKeys::ADMIN)
                .contains("`admin.tls.client_ca`")
        );
    }

    #[test]
    fn each_reason_is_told_once_a_second_and_the_last_of_it_in_the_end() {
        use HandshakeFailure::{Closed, NoCertificate, NotTls};

        let (handshakes, start) = (Handshakes::default(), Instant::now());
        handshakes.failed(NotTls, &peer(0), String::new());
        assert_eq!(told(&handshakes, start), [(NotTls, 1, peer(0))], "the first at once");
        assert!(!handshakes.has_untold());
        for number in [0, 1] {
            handshakes.failed(NotTls, &peer(number), String::new());
        }
        handshakes.failed(NoCertificate, &peer(2), String::new());
        assert_eq!(
            told(&handshakes, start + TELL_INTERVAL / 2),
            [(NoCertificate, 1, peer(2))],
            "a flood of another kind hides nothing"
        );
        assert!(handshakes.has_untold());
        assert_eq!(told(&handshakes, start + TELL_INTERVAL), [(NotTls, 2, peer(1))]);
        assert!(!handshakes.has_untold());

        handshakes.failed(Closed, &peer(0), String::new());
        assert!(!handshakes.has_untold(), "health checks are not told");
        assert_eq!(
            [NotTls, NoCertificate, Closed].map(|failure| handshakes.count(failure)),
            [3, 1, 1]
        );
    }
}
