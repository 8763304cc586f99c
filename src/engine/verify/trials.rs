//! Which keys a token is verified with, in which order, and how many it may cost.

use std::sync::Arc;

use super::{
    super::ports::{Answer, FoundKey},
    Verifier,
};
use crate::domain::{
    decision::{DenialReason, Identity},
    key::VerifyingKey,
    principal::{CANDIDATE_KEYS_MAX, KnownPrincipal},
    time::UnixMillis,
    token::{TokenKeyId, UntrustedToken, VerifiedToken},
};

/// A token whose `kid` picks no key costs at least this many verifications: the first principal in the middle of a key rotation,
/// with two keys to try, changes nothing.
const TRIALS_WITHOUT_KEY_ID: usize = 2;

impl Verifier {
    /// Verifies the signature with the keys and trusts of the principal, and makes up with decoys for those that it has not.
    pub(super) async fn verify<'t>(
        &self,
        token: &'t UntrustedToken<'_>,
        principal: Option<&KnownPrincipal>,
        now: UnixMillis,
    ) -> Result<(VerifiedToken<'t>, ProvenBy), DenialReason> {
        self.verify_counting(token, principal, now, &mut Trials::default()).await
    }

    /// A refusal costs as many verifications whatever the principal has, and whether there is one.
    pub(super) async fn verify_counting<'t>(
        &self,
        token: &'t UntrustedToken<'_>,
        principal: Option<&KnownPrincipal>,
        now: UnixMillis,
        trials: &mut Trials,
    ) -> Result<(VerifiedToken<'t>, ProvenBy), DenialReason> {
        if let Some(principal) = principal
            && let Some(found) = self.try_everything(token, principal, now, trials).await
        {
            return Ok(found);
        }
        for _ in trials.count..self.trials_at_least(token) {
            self.decoys.spend(token, now);
            trials.decoys += 1;
        }
        Err(trials.reason(principal))
    }

    /// What the token would cost with the principal that has the most to try.
    fn trials_at_least(&self, token: &UntrustedToken<'_>) -> usize {
        const { assert!(TRIALS_WITHOUT_KEY_ID <= CANDIDATE_KEYS_MAX) };
        let directory = &self.ports.directory;
        // A `kid` in the form of a fingerprint picks one key, or, if nobody has that key, none: it has to cost the same.
        let candidates = match token.key_id() {
            Some(TokenKeyId::Fingerprint(_) | TokenKeyId::Name(_)) => {
                directory.most_keys(token.algorithm().family()) + directory.most_trusts()
            }
            None => directory.most_keys(token.algorithm().family()),
        };
        candidates.clamp(TRIALS_WITHOUT_KEY_ID, CANDIDATE_KEYS_MAX)
    }

    /// A `kid` picks its key: the fingerprint of a registered key that one, any other name one of a key set. What it does not pick
    /// comes after.
    /// Looking in key sets is boxed, so that the decisions that need none stay small.
    pub(super) async fn try_everything<'t>(
        &self,
        token: &'t UntrustedToken<'_>,
        principal: &KnownPrincipal,
        now: UnixMillis,
        trials: &mut Trials,
    ) -> Option<(VerifiedToken<'t>, ProvenBy)> {
        if principal.trusts.is_empty() {
            return try_keys(token, principal, now, trials);
        }
        if token.key_id().is_some() && principal.named_key(token).is_none() {
            let found = Box::pin(self.try_trusts(token, principal, now, trials)).await;
            return found.or_else(|| try_keys(token, principal, now, trials));
        }
        match try_keys(token, principal, now, trials) {
            None => Box::pin(self.try_trusts(token, principal, now, trials)).await,
            found => found,
        }
    }

    async fn try_trusts<'t>(
        &self,
        token: &'t UntrustedToken<'_>,
        principal: &KnownPrincipal,
        now: UnixMillis,
        trials: &mut Trials,
    ) -> Option<(VerifiedToken<'t>, ProvenBy)> {
        let kid = token.key_id()?.text();
        // Sets that are being fetched are waited for together, and after those that are there.
        let mut awaited = Vec::new();
        for (index, trust) in principal.trusts_for(token) {
            match self.ports.key_sets.key(trust, &kid, now) {
                Answer::Ready(found) => {
                    if let Some(verified) = trials.run_found(token, found?, now) {
                        return Some((verified, ProvenBy::Trust(index)));
                    }
                }
                pending @ Answer::Pending(_) => awaited.push((index, pending)),
            }
        }
        for (index, pending) in awaited {
            if let Some(verified) = trials.run_found(token, pending.await, now) {
                return Some((verified, ProvenBy::Trust(index)));
            }
        }
        None
    }
}

/// The registered keys.
fn try_keys<'t>(
    token: &'t UntrustedToken<'_>,
    principal: &KnownPrincipal,
    now: UnixMillis,
    trials: &mut Trials,
) -> Option<(VerifiedToken<'t>, ProvenBy)> {
    principal.candidates(token, now).find_map(|(index, known)| {
        let verified = trials.run(token, &known.key, now)?;
        Some((verified, ProvenBy::Key(index)))
    })
}

/// Where in a principal the key stands that verified a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProvenBy {
    Key(usize),
    Trust(usize),
}

impl ProvenBy {
    pub(super) fn identity(self, principal: Arc<KnownPrincipal>, token: &UntrustedToken<'_>) -> Option<Identity> {
        let identity = match self {
            Self::Key(index) => Identity::by_key(principal, index),
            Self::Trust(index) => Identity::by_trust(principal, index, &token.key_id()?.text()),
        }?;
        Some(identity.for_body(token.unverified_claims().content_digest.as_ref()))
    }
}

/// Verifications that one token has cost so far.
#[derive(Default)]
pub(super) struct Trials {
    count: usize,
    /// Those with keys that nobody has.
    decoys: usize,
    /// Trusts whose key set is not there.
    keyless_trusts: usize,
}

impl Trials {
    /// One more, unless the token has cost enough.
    fn run<'t>(&mut self, token: &'t UntrustedToken<'_>, key: &VerifyingKey, now: UnixMillis) -> Option<VerifiedToken<'t>> {
        if self.count >= CANDIDATE_KEYS_MAX {
            return None;
        }
        self.count += 1;
        token.verify(key, now)
    }

    /// The same with what a key set has.
    fn run_found<'t>(&mut self, token: &'t UntrustedToken<'_>, found: FoundKey, now: UnixMillis) -> Option<VerifiedToken<'t>> {
        match found {
            FoundKey::Key(key) if token.fits(&key) => self.run(token, &key, now),
            FoundKey::Key(_) | FoundKey::NoSuchKey => None,
            FoundKey::NoKeySet => {
                self.keyless_trusts += 1;
                None
            }
        }
    }

    /// How many there were, those with keys that nobody has included.
    #[cfg(test)]
    pub(super) const fn verifications(&self) -> usize {
        self.count + self.decoys
    }

    /// Why none succeeded.
    pub(super) fn reason(&self, principal: Option<&KnownPrincipal>) -> DenialReason {
        match principal {
            None => DenialReason::UnknownPrincipal,
            Some(principal) if !principal.is_active => DenialReason::DisabledPrincipal,
            Some(_) if self.count > 0 => DenialReason::BadSignature,
            Some(_) if self.keyless_trusts > 0 => DenialReason::NoKeySet,
            Some(_) => DenialReason::NoMatchingKey,
        }
    }
}
