//! What came of an import.

use crate::engine::ports::{LegacyTotals, Origin};

/// What is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A principal.
    Principal,
    /// A public key.
    Key,
    /// A trusted key set.
    Trust,
    /// An API key.
    ApiKey,
    /// A refresh token.
    RefreshToken,
}

impl Kind {
    /// Every one of them.
    pub const ALL: [Self; 5] =
        [Self::Principal, Self::Key, Self::Trust, Self::ApiKey, Self::RefreshToken];

    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Principal => "principal",
            Self::Key => "key",
            Self::Trust => "jwks_trust",
            Self::ApiKey => "api_key",
            Self::RefreshToken => "refresh_token",
        }
    }
}

/// What came of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowOutcome {
    /// It was taken over.
    TakenOver,
    /// The registry has it already.
    AlreadyThere,
    /// The same, and it is worth saying why.
    Duplicate(String),
    /// It was not taken over, and why.
    Refused(String),
}

/// How many rows of one kind came out how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// They were taken over.
    pub taken_over: u64,
    /// The registry had them already.
    pub already_there: u64,
    /// They were not taken over.
    pub refused: u64,
}

/// A row that an operator should know about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// What it is.
    pub kind: Kind,
    /// Where it stands in the other system.
    pub origin: Origin,
    /// Whose it is there.
    pub username: String,
    /// Whether it was refused; else the registry has it already.
    pub is_refused: bool,
    /// Why.
    pub reason: String,
}

/// What came of an import, or of a part of one.
#[derive(Clone, Debug, Default)]
pub struct ImportReport {
    counts: [Counts; Kind::ALL.len()],
    /// What an operator should know about, in the order of the other system's accounts.
    pub remarks: Vec<Remark>,
    /// How much there was in the other system; none for a part.
    pub totals: Option<LegacyTotals>,
}

impl ImportReport {
    /// A report in which nothing happened yet.
    pub const fn new(totals: LegacyTotals) -> Self {
        let none = Counts { taken_over: 0, already_there: 0, refused: 0 };
        Self { counts: [none; Kind::ALL.len()], remarks: Vec::new(), totals: Some(totals) }
    }

    /// How the rows of a kind came out.
    pub const fn counts(&self, kind: Kind) -> Counts {
        self.counts[kind as usize]
    }

    /// How many rows were taken over.
    pub fn taken_over(&self) -> u64 {
        self.counts.iter().map(|counts| counts.taken_over).sum()
    }

    /// How many rows were not taken over.
    pub fn refused(&self) -> u64 {
        self.counts.iter().map(|counts| counts.refused).sum()
    }

    pub(super) fn note(
        &mut self,
        kind: Kind,
        origin: &Origin,
        username: &str,
        outcome: RowOutcome,
    ) {
        let counts = &mut self.counts[kind as usize];
        let (is_refused, reason) = match outcome {
            RowOutcome::TakenOver => {
                counts.taken_over += 1;
                return;
            }
            RowOutcome::AlreadyThere => {
                counts.already_there += 1;
                return;
            }
            RowOutcome::Duplicate(reason) => {
                counts.already_there += 1;
                (false, reason)
            }
            RowOutcome::Refused(reason) => {
                counts.refused += 1;
                (true, reason)
            }
        };
        self.remarks.push(Remark {
            kind,
            origin: origin.clone(),
            username: username.to_owned(),
            is_refused,
            reason,
        });
    }

    pub(super) fn absorb(&mut self, part: Self) {
        for (all, some) in self.counts.iter_mut().zip(part.counts) {
            all.taken_over += some.taken_over;
            all.already_there += some.already_there;
            all.refused += some.refused;
        }
        self.remarks.extend(part.remarks);
    }
}
