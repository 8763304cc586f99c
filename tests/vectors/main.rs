//! Published test vectors, run against the library's own verification:
//! [`VerifyingKey`](countersign::domain::key::VerifyingKey) and the code that makes one from a
//! published key.

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
