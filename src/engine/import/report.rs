//! The results of an import.

use crate::engine::ports::{LegacyTotals, Origin};

/// The kinds of records that are imported.
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
    /// All kinds.
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

/// The result for one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowOutcome {
    /// The row was imported.
    TakenOver,
    /// The registry already has it.
    AlreadyThere,
    /// The registry already has it, and this is worth reporting.
    Duplicate(String),
    /// The row was not imported, for this reason.
    Refused(String),
}

/// The number of rows of one kind, by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The number of imported rows.
    pub taken_over: u64,
    /// The number of rows that the registry already had.
    pub already_there: u64,
    /// The number of refused rows.
    pub refused: u64,
}

/// A row that an operator should know about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The kind of the row.
    pub kind: Kind,
    /// The row in the other system.
    pub origin: Origin,
    /// The username in the other system.
    pub username: String,
    /// `true` if the row was refused; `false` if the registry already has it.
    pub is_refused: bool,
    /// Why it is reported.
    pub reason: String,
}

/// The results of an import, or of a part of it.
#[derive(Clone, Debug, Default)]
pub struct ImportReport {
    counts: [Counts; Kind::ALL.len()],
    /// Rows that an operator should know about, in the order of the other system's accounts.
    pub remarks: Vec<Remark>,
    /// The totals of the other system; `None` in the report of a part.
    pub totals: Option<LegacyTotals>,
}

impl ImportReport {
    /// An empty report.
    pub const fn new(totals: LegacyTotals) -> Self {
        let none = Counts { taken_over: 0, already_there: 0, refused: 0 };
        Self { counts: [none; Kind::ALL.len()], remarks: Vec::new(), totals: Some(totals) }
    }

    /// The results for the rows of one kind.
    pub const fn counts(&self, kind: Kind) -> Counts {
        self.counts[kind as usize]
    }

    /// The number of imported rows, of all kinds.
    pub fn taken_over(&self) -> u64 {
        self.counts.iter().map(|counts| counts.taken_over).sum()
    }

    /// The number of refused rows, of all kinds.
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
