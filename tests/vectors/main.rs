//! Somebody else's test vectors, judged by the library's own verification:
//! [`VerifyingKey`](countersign::domain::key::VerifyingKey) and what makes one of a key as it is
//! published.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "a test that cannot go on says so by panicking, and has no readers of its API"
)]

mod jws;
mod rfcs;
mod wycheproof;
