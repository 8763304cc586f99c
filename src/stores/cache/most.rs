//! How much one principal has at most.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::domain::{algorithm::KeyFamily, principal::KnownPrincipal};

/// The most keys of each kind, and the most trusts, of one principal, of all that were ever read. A
/// refusal costs as many verifications as the principal with the most would cost, so its time tells
/// nothing about the one that it names.
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
