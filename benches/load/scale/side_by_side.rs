//! Several services that get the same requests in turns, round by round.

use super::{AHEAD, CONNECTIONS, Target};
use crate::{
    server::{Placement, Server},
    table::{Bound, Row, Spread},
    tokens::{Signer, sign},
};

/// Decisions of each service per round.
pub(super) const DECISIONS: usize = 3_000;
const ROUNDS_FULL: usize = 24;
const ROUNDS_QUICK: usize = 6;
pub(super) const PLACEMENT: Placement = Placement { is_pinned: true };

/// A baseline may be older than the migrations of the database that it uses.
pub(super) const BASELINE_SETTINGS: [(&str, &str); 1] =
    [("COUNTERSIGN_DATABASE__AUTO_MIGRATE", "false")];

/// A service, and the cost of a decision in each round, in microseconds of CPU time.
pub(super) struct Variant {
    pub(super) label: &'static str,
    target: Target,
    pub(super) rounds: Vec<f64>,
}

impl Variant {
    /// Sends a few requests first, so that all connections and keys are in use.
    pub(super) async fn of(label: &'static str, server: Server, signers: &[Signer]) -> Self {
        Self::asked(label, Target::of(server).await, signers).await
    }

    /// The same for a service that is asked over another transport.
    pub(super) async fn asked(label: &'static str, mut target: Target, signers: &[Signer]) -> Self {
        target.ask(&sign(signers, 8 * CONNECTIONS, 0)).await;
        Self { label, target, rounds: Vec::new() }
    }

    fn median(&self) -> f64 {
        self.rounds.iter().copied().collect::<Spread>().median()
    }

    /// The ratio to `other` in each round.
    pub(super) fn against(&self, other: &Self, what: &str, bound: Option<Bound>) -> Row {
        let ratios =
            self.rounds.iter().zip(&other.rounds).map(|(own, other)| own / other).collect();
        let own = format!("{:.1} µs CPU", self.median());
        Row::new(
            format!("{what}, {}", self.label),
            own,
            format!("{}, {:.1} µs", other.label, other.median()),
            ratios,
            bound,
        )
    }
}

/// Measures all of them. Each comes first in turn, since the first finds the caches as signing left
/// them.
pub(super) async fn measure(
    name: &str,
    variants: &mut [Variant],
    signers: &[Signer],
    is_quick: bool,
) {
    let rounds = if is_quick { ROUNDS_QUICK } else { ROUNDS_FULL };
    for round in 0..rounds {
        // Services do not share nonces, so all get the same tokens.
        let tokens = sign(signers, DECISIONS, AHEAD);
        PLACEMENT.withdraw(true);
        let count = variants.len();
        for place in 0..count {
            let variant = &mut variants[(round + place) % count];
            let taken = variant.target.ask(&tokens).await;
            variant.rounds.push(taken.cpu_us);
        }
        PLACEMENT.withdraw(false);
        let figures: Vec<String> = variants
            .iter()
            .map(|variant| format!("{} {:.1}", variant.label, variant.rounds[round]))
            .collect();
        println!("{name}, round {} of {rounds}: {}", round + 1, figures.join("; "));
    }
}
