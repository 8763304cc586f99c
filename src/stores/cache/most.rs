//! The largest number of keys and trusts that any principal has.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::domain::{algorithm::KeyFamily, principal::KnownPrincipal};

/// The largest number of keys of each kind, and of trusts, of any principal ever read. A refusal
/// costs as many verifications as for that principal, so its timing reveals nothing about the
/// principal that the token names.
#[derive(Debug, Default)]
pub(super) struct MostHeld {
    keys: [AtomicUsize; KeyFamily::ALL.len()],
    trusts: AtomicUsize,
}

impl MostHeld {
    pub(super) fn note(&self, principal: &KnownPrincipal) {
        for (family, most) in KeyFamily::ALL.into_iter().zip(&self.keys) {
            most.fetch_max(
                principal.keys.iter().filter(|known| known.key.family() == family).count(),
                Ordering::Relaxed,
            );
        }
        self.trusts.fetch_max(principal.trusts.len(), Ordering::Relaxed);
    }

    pub(super) fn keys(&self, family: KeyFamily) -> usize {
        let place = KeyFamily::ALL.into_iter().position(|other| other == family);
        place.and_then(|place| self.keys.get(place)).map_or(0, |most| most.load(Ordering::Relaxed))
    }

    pub(super) fn trusts(&self) -> usize {
        self.trusts.load(Ordering::Relaxed)
    }
}
