//! The clock while a decision is made.

use super::*;

/// A nonce is forgotten soon after its token's window: a token that is claimed later may have been
/// used before.
#[test]
fn a_token_whose_window_ends_while_stores_are_waited_for_is_denied() {
    for (later, decided) in
        [(NOW_MS + 19_500, Ok(())), (NOW_MS + 19_501, Err(DenialReason::TooOld))]
    {
        let bench = bench();
        *bench.nonces.slow.lock().unwrap() = Some((Arc::clone(&bench.clock), later));
        let token = bench.sign(&claims("n"));
        let verdict = now_or_never(bench.verifier.decide(&auth_request(&token))).result.unwrap();
        match verdict {
            Decision::Allow(_) => assert_eq!(decided, Ok(()), "{later}"),
            Decision::Deny(denial) => assert_eq!(decided, Err(denial.reason), "{later}"),
        }
        assert_eq!(bench.claimed(), 1, "the nonce is spent all the same");
    }
}

#[test]
fn a_token_that_expires_while_stores_are_waited_for_is_denied() {
    let bench = bench();
    *bench.nonces.slow.lock().unwrap() = Some((Arc::clone(&bench.clock), (NOW + 5) * 1000));
    let mut claims = claims("n");
    claims["exp"] = json!(NOW + 5);
    let token = bench.sign(&claims);
    let verdict = now_or_never(bench.verifier.decide(&auth_request(&token))).result.unwrap();
    assert!(matches!(verdict, Decision::Deny(denial) if denial.reason == DenialReason::Expired));
}

#[test]
fn after_the_clock_was_set_back_no_token_from_before_is_good() {
    let bench = bench();
    let signed_at = |time: i64| {
        let mut claims = claims(&format!("n{time}"));
        claims["time"] = json!(time);
        bench.sign(&claims)
    };
    bench.clock.set_back_from.store(i64::MAX, Ordering::Relaxed);
    assert_eq!(
        bench.present(&signed_at(NOW + 1)),
        Err(DenialReason::Fenced),
        "while it catches up"
    );
    bench.clock.set_back_from.store(NOW * 1000, Ordering::Relaxed);
    assert_eq!(bench.present(&signed_at(NOW)), Err(DenialReason::Fenced));
    assert_eq!(bench.claimed(), 0);
    assert_eq!(bench.present(&signed_at(NOW + 1)), Ok(()));
}
