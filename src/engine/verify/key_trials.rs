//! Which keys a token is tried with, in which order, and how many verifications it costs.

use std::sync::Arc;

use super::{super::ports::Answer, Verifier};
use crate::domain::{
    decision::{DenialReason, Identity},
    key::{Fingerprint, VerifyingKey},
    key_set::KeySet,
    principal::{CANDIDATE_KEYS_MAX, KnownPrincipal},
    time::UnixMillis,
    token::{TokenKeyId, UntrustedToken, VerifiedToken},
};

/// A token whose `kid` selects no key costs at least this many verifications, so that the first
/// principal in the middle of a key rotation, with two keys to try, changes nothing.
const TRIALS_WITHOUT_KEY_ID: usize = 2;

impl Verifier {
    /// Verifies the signature with the keys and trusts of the principal, and fills up with decoys
    /// for those that it does not have.
    pub(super) async fn verify<'t>(
        &self,
        token: &'t UntrustedToken<'_>,
        principal: Option<&KnownPrincipal>,
        now: UnixMillis,
    ) -> Result<(VerifiedToken<'t>, ProvenBy), DenialReason> {
        self.verify_counting(token, principal, now, &mut KeyTrials::default()).await
    }

    /// A refusal costs the same number of verifications whatever keys the principal has, and
    /// whether it exists or not.
    pub(super) async fn verify_counting<'t>(
        &self,
        token: &'t UntrustedToken<'_>,
        principal: Option<&KnownPrincipal>,
        now: UnixMillis,
        trials: &mut KeyTrials,
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

    /// What the token would cost for the principal with the most keys to try.
    fn trials_at_least(&self, token: &UntrustedToken<'_>) -> usize {
        const { assert!(TRIALS_WITHOUT_KEY_ID <= CANDIDATE_KEYS_MAX) };
        let (directory, family) = (&self.ports.directory, token.algorithm().family());
        let of_a_set = self.ports.key_sets.most_trials(family);
        // So that the first key set with a named key changes nothing.
        let of_a_set =
            if token.key_id().is_some() { of_a_set.named.max(1) } else { of_a_set.unnamed };
        let candidates = directory
            .most_keys(family)
            .saturating_add(directory.most_trusts().saturating_mul(of_a_set));
        candidates.clamp(TRIALS_WITHOUT_KEY_ID, CANDIDATE_KEYS_MAX)
    }

    /// The `kid` decides which keys are tried first: the registered key with that fingerprint, or
    /// otherwise the keys of that name in key sets. Then come the registered keys, and last the
    /// keys without names in key sets. Looking in key sets is boxed, so that decisions without it
    /// stay small.
    pub(super) async fn try_everything<'t>(
        &self,
        token: &'t UntrustedToken<'_>,
        principal: &KnownPrincipal,
        now: UnixMillis,
        trials: &mut KeyTrials,
    ) -> Option<(VerifiedToken<'t>, ProvenBy)> {
        let keys_are_first = principal.trusts.is_empty()
            || token.key_id().is_none()
            || principal.named_key(token).is_some();
        let found = if keys_are_first { try_keys(token, principal, now, trials) } else { None };
        if found.is_some() || principal.trusts.is_empty() {
            return found;
        }
        Box::pin(self.try_trusts(token, principal, keys_are_first, now, trials)).await
    }

    async fn try_trusts<'t>(
        &self,
        token: &'t UntrustedToken<'_>,
        principal: &KnownPrincipal,
        keys_were_first: bool,
        now: UnixMillis,
        trials: &mut KeyTrials,
    ) -> Option<(VerifiedToken<'t>, ProvenBy)> {
        let mut found = self.try_named(token, principal, now, trials).await;
        if found.is_none() && !keys_were_first {
            found = try_keys(token, principal, now, trials);
        }
        let found = found.or_else(|| self.try_nameless(token, principal, now, trials));
        if found.is_none() {
            principal.trusts_in_use().for_each(|(_, trust)| self.ports.key_sets.missed(trust, now));
        }
        found
    }

    /// Tries the keys of key sets with the token's `kid`, or all of them if it has none.
    async fn try_named<'t>(
        &self,
        token: &'t UntrustedToken<'_>,
        principal: &KnownPrincipal,
        now: UnixMillis,
        trials: &mut KeyTrials,
    ) -> Option<(VerifiedToken<'t>, ProvenBy)> {
        let kid = token.key_id().map(TokenKeyId::text);
        let mut run = |index, set: Option<Arc<KeySet>>| match (set, &kid) {
            (None, _) => {
                trials.keyless_trusts += 1;
                None
            }
            (Some(set), Some(kid)) => {
                let verified = trials.run_all(token, set.named(kid), now)?;
                Some((verified, ProvenBy::Trust { index, nameless: None }))
            }
            (Some(set), None) => {
                trials.run_all(token, set.keys(), now).map(|verified| by_nameless(index, verified))
            }
        };
        // Sets that are still being fetched are awaited together, after the available ones.
        let mut awaited = Vec::new();
        for (index, trust) in principal.trusts_in_use() {
            match self.ports.key_sets.set(trust, now) {
                Answer::Ready(found) => {
                    if let Some(found) = run(index, found?) {
                        return Some(found);
                    }
                }
                pending @ Answer::Pending(_) => awaited.push((index, pending)),
            }
        }
        for (index, pending) in awaited {
            if let Some(found) = run(index, pending.await) {
                return Some(found);
            }
        }
        None
    }

    /// Tries the keys of key sets without names. It does not wait: sets that are still missing were
    /// awaited before.
    fn try_nameless<'t>(
        &self,
        token: &'t UntrustedToken<'_>,
        principal: &KnownPrincipal,
        now: UnixMillis,
        trials: &mut KeyTrials,
    ) -> Option<(VerifiedToken<'t>, ProvenBy)> {
        token.key_id()?;
        principal.trusts_in_use().find_map(|(index, trust)| {
            match self.ports.key_sets.set(trust, now) {
                Answer::Ready(found) => {
                    let verified = trials.run_all(token, found??.nameless(), now)?;
                    Some(by_nameless(index, verified))
                }
                Answer::Pending(_) => None,
            }
        })
    }
}

/// Identifies a key that the token does not name.
fn by_nameless(index: usize, verified: VerifiedToken<'_>) -> (VerifiedToken<'_>, ProvenBy) {
    let nameless = Some(verified.fingerprint());
    (verified, ProvenBy::Trust { index, nameless })
}

fn try_keys<'t>(
    token: &'t UntrustedToken<'_>,
    principal: &KnownPrincipal,
    now: UnixMillis,
    trials: &mut KeyTrials,
) -> Option<(VerifiedToken<'t>, ProvenBy)> {
    principal.candidates(token, now).find_map(|(index, known)| {
        let verified = trials.run(token, &known.key, now)?;
        Some((verified, ProvenBy::Key(index)))
    })
}

/// Which of a principal's keys verified a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProvenBy {
    Key(usize),
    Trust {
        index: usize,
        /// The fingerprint of the key, if it is not named by the token's `kid`.
        nameless: Option<Fingerprint>,
    },
}

impl ProvenBy {
    pub(super) fn identity(
        self,
        principal: Arc<KnownPrincipal>,
        token: &UntrustedToken<'_>,
    ) -> Option<Identity> {
        let identity = match self {
            Self::Key(index) => Identity::by_key(principal, index),
            Self::Trust { index, nameless: None } => {
                Identity::by_trust(principal, index, &token.key_id()?.text())
            }
            Self::Trust { index, nameless: Some(fingerprint) } => {
                Identity::by_trust(principal, index, &fingerprint.to_string())
            }
        }?;
        Some(identity.for_body(token.unverified_claims().content_digest.as_ref()))
    }
}

/// The verifications that a token has cost so far.
#[derive(Default)]
pub(super) struct KeyTrials {
    count: usize,
    /// The keys that did not verify the token. The same key can come again under another name or in
    /// another key set.
    failed: [Option<Fingerprint>; CANDIDATE_KEYS_MAX],
    /// The number of verifications with decoys.
    decoys: usize,
    /// The number of trusts whose key set is not available.
    keyless_trusts: usize,
}

impl KeyTrials {
    /// Tries `key`, unless the token has reached its limit or the key has failed before.
    fn run<'t>(
        &mut self,
        token: &'t UntrustedToken<'_>,
        key: &VerifyingKey,
        now: UnixMillis,
    ) -> Option<VerifiedToken<'t>> {
        let fingerprint = key.fingerprint();
        if self.count >= CANDIDATE_KEYS_MAX
            || self.failed[..self.count].contains(&Some(fingerprint))
        {
            return None;
        }
        let verified = token.verify(key, now);
        if verified.is_none() {
            self.failed[self.count] = Some(fingerprint);
        }
        self.count += 1;
        verified
    }

    /// Tries those of `keys` that could have signed the token, in order.
    fn run_all<'t, 'k>(
        &mut self,
        token: &'t UntrustedToken<'_>,
        keys: impl Iterator<Item = &'k VerifyingKey>,
        now: UnixMillis,
    ) -> Option<VerifiedToken<'t>> {
        keys.filter(|key| token.fits(key)).find_map(|key| self.run(token, key, now))
    }

    /// The number of verifications, including those with decoys.
    #[cfg(test)]
    pub(super) const fn verifications(&self) -> usize {
        self.count + self.decoys
    }

    /// Why no key verified the token.
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
