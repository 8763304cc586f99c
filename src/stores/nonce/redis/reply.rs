//! Reads the replies of Redis so that no reply can be mistaken for another.
//!
//! The `redis` crate returns an error reply to a raw command as `Ok(Value::ServerError)`, and
//! conversions such as `Option<Value>` accept it as a value. So every reply that a decision depends
//! on is matched here by its exact form; anything else is a [`ReplyError`].

use redis::Value;

use crate::domain::time::UnixMillis;

/// The reply to `SET key value NX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetReply {
    /// `+OK`: the key did not exist, and now holds the value.
    Stored,
    /// Nil: the key exists, and was not changed.
    Held,
}

/// A reply that does not say whether the nonce is fresh.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplyError {
    /// Redis refused the command.
    #[error("Redis refused it: {code}{}{detail}", if detail.is_empty() { "" } else { " " })]
    Refused {
        /// The first word of the error reply, such as `OOM`.
        code: Box<str>,
        /// The rest of the error reply.
        detail: Box<str>,
    },
    /// A reply of a type that the command never returns.
    #[error("Redis replied with {0}, which is no answer to the command")]
    Unexpected(&'static str),
}

impl ReplyError {
    /// Whether another connection may get another answer: this one leads to the wrong server, or
    /// the server wants the client to authenticate again.
    pub(super) fn ends_connection(&self) -> bool {
        match self {
            Self::Refused { code, .. } => {
                matches!(&**code, "READONLY" | "MASTERDOWN" | "NOAUTH" | "LOADING" | "NOREPLICAS")
            }
            Self::Unexpected(_) => true,
        }
    }

    /// Whether another server may have the nonces now.
    pub(super) fn leads_elsewhere(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if matches!(&**code, "MOVED" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN"))
    }

    /// The kind for metrics: the code of a known error reply, `other_error` or `unexpected_reply`.
    pub(super) fn kind(&self) -> FailureKind {
        match self {
            Self::Refused { code, .. } => FailureKind::of_code(code),
            Self::Unexpected(_) => FailureKind::UnexpectedReply,
        }
    }
}

/// Lists the kinds of failures: variant, name in metrics and, for an error reply, its code.
macro_rules! failure_kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal $(($code:literal))?,)+) => {
        /// Why a claim could not be decided, as counted by metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum FailureKind {
            $($(#[$doc])* $kind,)+
        }

        impl FailureKind {
            /// Every kind, in the order of `kind as usize`.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)+];

            /// The value of the label `kind`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)+
                }
            }

            fn of_code(code: &str) -> Self {
                match code {
                    $($($code => Self::$kind,)?)+
                    _ => Self::OtherError,
                }
            }
        }
    };
}

failure_kinds! {
    /// No answer in time.
    Timeout = "timeout",
    /// No connection, or one that broke.
    Connection = "connection",
    /// A reply of a type that the command never returns.
    UnexpectedReply = "unexpected_reply",
    /// An error reply with a code that is not listed here.
    OtherError = "other_error",
    /// Too few replicas of Redis acknowledged the claim.
    TooFewAcknowledged = "too_few_acknowledged",
    /// Another server took over during the claim.
    Replaced = "replaced",
    /// Redis lost its data during the claim.
    MemoryLost = "memory_lost",
    /// The clock of this replica differs too much from that of Redis.
    ClockSkew = "clock_skew",
    /// The server may evict any key.
    Evicts = "evicts",
    /// Redis is out of memory, and its policy forbids eviction.
    OutOfMemory = "oom" ("OOM"),
    /// The server is a read-only replica.
    ReadOnly = "readonly" ("READONLY"),
    /// Fewer replicas than `min-replicas-to-write`.
    NoReplicas = "noreplicas" ("NOREPLICAS"),
    /// Persistence fails, so Redis refuses writes.
    Misconfigured = "misconf" ("MISCONF"),
    /// The ACL user may not use the command or the key.
    NoPermission = "noperm" ("NOPERM"),
    /// Redis requires a password.
    NoAuthentication = "noauth" ("NOAUTH"),
    /// Redis is still loading its data.
    Loading = "loading" ("LOADING"),
    /// A script has been running for too long.
    Busy = "busy" ("BUSY"),
    /// The keys of the slot are being moved.
    TryAgain = "tryagain" ("TRYAGAIN"),
    /// The server is a replica that has lost its master.
    MasterDown = "masterdown" ("MASTERDOWN"),
    /// The cluster does not serve the slot.
    ClusterDown = "clusterdown" ("CLUSTERDOWN"),
    /// Another node has the slot.
    Moved = "moved" ("MOVED"),
    /// The slot is being moved to another node.
    Ask = "ask" ("ASK"),
    /// One command had keys of several slots.
    CrossSlot = "crossslot" ("CROSSSLOT"),
    /// Any other error reply with the generic code.
    GeneralError = "err" ("ERR"),
}

/// Reads the reply to `SET key value NX`. Only the simple string `OK` means that the value was
/// stored.
pub(super) fn set(reply: Value) -> Result<SetReply, ReplyError> {
    match reply {
        Value::Okay => Ok(SetReply::Stored),
        Value::Nil => Ok(SetReply::Held),
        other => Err(not_an_answer(other)),
    }
}

/// Reads the reply to `GET key`.
pub(super) fn get(reply: Value) -> Result<Option<Vec<u8>>, ReplyError> {
    match reply {
        Value::BulkString(bytes) => Ok(Some(bytes)),
        Value::Nil => Ok(None),
        other => Err(not_an_answer(other)),
    }
}

/// Reads the reply to `EXISTS key` for one key.
pub(super) fn exists(reply: Value) -> Result<bool, ReplyError> {
    match reply {
        Value::Int(0) => Ok(false),
        Value::Int(1) => Ok(true),
        other => Err(not_an_answer(other)),
    }
}

pub(super) fn integer(reply: Value) -> Result<i64, ReplyError> {
    match reply {
        Value::Int(number) => Ok(number),
        other => Err(not_an_answer(other)),
    }
}

/// Reads a text reply, such as that of `INFO`.
pub(super) fn text(reply: Value) -> Result<String, ReplyError> {
    match reply {
        Value::BulkString(bytes) => {
            String::from_utf8(bytes).map_err(|_| ReplyError::Unexpected("bytes that are no text"))
        }
        Value::VerbatimString { text, .. } => Ok(text),
        other => Err(not_an_answer(other)),
    }
}

/// Reads the reply to `TIME`: seconds and microseconds.
pub(super) fn time(reply: Value) -> Result<UnixMillis, ReplyError> {
    let Value::Array(parts) = reply else { return Err(not_an_answer(reply)) };
    let number = |part: Value| text(part).ok()?.parse::<i64>().ok();
    let numbers: Option<Vec<i64>> = parts.into_iter().map(number).collect();
    match numbers.as_deref() {
        Some([seconds, micros]) => {
            Ok(UnixMillis(seconds.saturating_mul(1000).saturating_add(micros / 1000)))
        }
        _ => Err(ReplyError::Unexpected("an array that is no time")),
    }
}

/// The next reply of a pipeline, or an empty array if there is none.
pub(super) fn next(replies: &mut impl Iterator<Item = Value>) -> Value {
    // A missing reply is no answer and must not become nil, which would be one.
    replies.next().unwrap_or_else(|| Value::Array(Vec::new()))
}

fn not_an_answer(reply: Value) -> ReplyError {
    ReplyError::Unexpected(match reply {
        Value::ServerError(error) => {
            let detail = error.details().unwrap_or_default().into();
            return ReplyError::Refused { code: error.code().into(), detail };
        }
        Value::Nil => "nil",
        Value::Int(_) => "an integer",
        Value::BulkString(_) => "a bulk string",
        Value::SimpleString(_) | Value::Okay => "a simple string",
        Value::Array(_) => "an array",
        Value::Map(_) => "a map",
        Value::Attribute { .. } => "an attribute",
        Value::Set(_) => "a set",
        Value::Double(_) => "a double",
        Value::Boolean(_) => "a boolean",
        Value::VerbatimString { .. } => "a verbatim string",
        Value::BigNumber(_) => "a big number",
        Value::Push { .. } => "a push message",
        // The enum may grow: an unknown type is no answer either.
        _ => "something of an unknown kind",
    })
}

#[cfg(test)]
mod tests {
    use redis::parse_redis_value;

    use super::*;

    fn read(wire: &str) -> Value {
        parse_redis_value(wire.as_bytes()).unwrap()
    }

    const ERRORS: [(&str, FailureKind); 15] = [
        ("OOM command not allowed when used memory > 'maxmemory'.", FailureKind::OutOfMemory),
        ("READONLY You can't write against a read only replica.", FailureKind::ReadOnly),
        ("NOREPLICAS Not enough good replicas to write.", FailureKind::NoReplicas),
        ("MISCONF Redis is configured to save RDB snapshots", FailureKind::Misconfigured),
        ("NOPERM this user has no permissions to run the 'set' command", FailureKind::NoPermission),
        ("NOAUTH Authentication required.", FailureKind::NoAuthentication),
        ("LOADING Redis is loading the dataset in memory", FailureKind::Loading),
        ("BUSY Redis is busy running a script.", FailureKind::Busy),
        ("TRYAGAIN Multiple keys request during rehashing of slot", FailureKind::TryAgain),
        ("MASTERDOWN Link with MASTER is down", FailureKind::MasterDown),
        ("CLUSTERDOWN The cluster is down", FailureKind::ClusterDown),
        ("MOVED 1 127.0.0.1:1", FailureKind::Moved),
        ("ASK 1 127.0.0.1:1", FailureKind::Ask),
        ("ERR unknown", FailureKind::GeneralError),
        ("SOMETHING else", FailureKind::OtherError),
    ];

    #[test]
    fn only_ok_is_stored_and_only_nil_is_held() {
        assert_eq!(set(read("+OK\r\n")).unwrap(), SetReply::Stored);
        assert_eq!(set(read("$-1\r\n")).unwrap(), SetReply::Held);
        for nonsense in [
            "+QUEUED\r\n",
            "+ok\r\n",
            "$2\r\nOK\r\n",
            ":1\r\n",
            "*0\r\n",
            "*1\r\n+OK\r\n",
            "#t\r\n",
            "%0\r\n",
            ",1\r\n",
        ] {
            assert!(matches!(set(read(nonsense)), Err(ReplyError::Unexpected(_))), "{nonsense:?}");
        }
    }

    #[test]
    fn an_error_reply_is_an_error_of_its_kind_whatever_was_asked() {
        for (text, kind) in ERRORS {
            let reply = || read(&format!("-{text}\r\n"));
            assert!(matches!(reply(), Value::ServerError(_)), "the crate hands it on as a value");
            assert_eq!(set(reply()).unwrap_err().kind(), kind, "{text}");
            assert_eq!(get(reply()).unwrap_err().kind(), kind, "{text}");
            assert_eq!(exists(reply()).unwrap_err().kind(), kind, "{text}");
            let told = set(reply()).unwrap_err().to_string();
            assert!(told.contains(text.split(' ').next().unwrap()), "{told}");
        }
    }

    #[test]
    fn times_and_texts_are_read() {
        assert_eq!(
            time(read("*2\r\n$10\r\n1764300000\r\n$6\r\n123456\r\n")).unwrap(),
            UnixMillis(1_764_300_000_123)
        );
        for nonsense in ["*0\r\n", "*1\r\n$1\r\n1\r\n", "*2\r\n$1\r\nx\r\n$1\r\n1\r\n", ":1\r\n"] {
            assert!(time(read(nonsense)).is_err(), "{nonsense:?}");
        }
        assert_eq!(text(read("=5\r\ntxt:x\r\n")).unwrap(), "x");
        assert!(
            set(next(&mut std::iter::empty())).is_err()
                && get(next(&mut std::iter::empty())).is_err()
        );
    }

    #[test]
    fn holders_and_existence_have_one_form_each() {
        assert_eq!(get(read("$1\r\nx\r\n")).unwrap(), Some(b"x".to_vec()));
        assert_eq!(get(read("$-1\r\n")).unwrap(), None);
        assert!(exists(read(":1\r\n")).unwrap() && !exists(read(":0\r\n")).unwrap());
        for nonsense in [":2\r\n", ":-1\r\n", "$-1\r\n", "+OK\r\n"] {
            assert!(exists(read(nonsense)).is_err(), "{nonsense:?}");
        }
        for nonsense in [":0\r\n", "+OK\r\n", "*0\r\n"] {
            assert!(get(read(nonsense)).is_err(), "{nonsense:?}");
        }
    }
}
