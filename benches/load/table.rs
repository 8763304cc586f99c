//! The table at the end of a run: each line has a figure of ours and the figure that it is compared
//! with in the same run.

use std::fmt::{self, Write as _};

/// The results of one part of a run.
#[derive(Debug, Default)]
pub(crate) struct Section {
    pub(crate) rows: Vec<Row>,
    /// Paragraphs of Markdown below the table: how it was measured, and what the figures do not
    /// show.
    pub(crate) notes: Vec<String>,
}

/// One line.
#[derive(Debug)]
pub(crate) struct Row {
    /// What is measured, such as `allow, RS256, Redis nonces`.
    figure: String,
    /// The result with its unit, such as `28.4 µs CPU`.
    ours: String,
    /// The other figure with its unit, such as `sum of floors, 25.0 µs`.
    compared_with: String,
    /// The ratio of the two in each round.
    times: Spread,
    bound: Option<Bound>,
}

/// The bound of a ratio.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    /// `ours` is `times` the figure that it is compared with.
    pub(crate) fn new(
        figure: impl Into<String>,
        ours: impl Into<String>,
        compared_with: impl Into<String>,
        times: Spread,
        bound: Option<Bound>,
    ) -> Self {
        Self {
            figure: figure.into(),
            ours: ours.into(),
            compared_with: compared_with.into(),
            times,
            bound,
        }
    }

    /// `measured` may be at most `limit`, both in `unit`.
    pub(crate) fn limited(
        figure: impl Into<String>,
        measured: f64,
        limit: f64,
        unit: &str,
    ) -> Self {
        let digits = if measured < 10.0 { 2 } else { 0 };
        let times = Spread::from_iter([measured / limit]);
        Self::new(
            figure,
            format!("{measured:.digits$} {unit}"),
            format!("{limit} {unit}"),
            times,
            Some(Bound::AtMost(1.0)),
        )
    }

    /// Whether the median is within the bound.
    pub(crate) fn is_within_bound(&self) -> bool {
        let median = self.times.median();
        match self.bound {
            None => true,
            Some(Bound::AtMost(most)) => median <= most,
            Some(Bound::AtLeast(least)) => median >= least,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { figure, ours, compared_with, times, bound } = self;
        let bound = match bound {
            None => String::new(),
            Some(Bound::AtMost(most)) => format!("≤ {most}"),
            Some(Bound::AtLeast(least)) => format!("≥ {least}"),
        };
        let mark = if self.is_within_bound() { "" } else { " **missed**" };
        write!(
            f,
            "| {figure} | {ours} | {compared_with} | {} | {bound}{mark} |",
            times.with_range(2)
        )
    }
}

/// All of `sections`, in Markdown.
pub(crate) fn render(sections: &[Section]) -> String {
    let mut text = String::from(
        "| figure | ours | compared with | times | bound |\n| --- | --- | --- | --- | --- |\n",
    );
    for row in sections.iter().flat_map(|section| &section.rows) {
        let _ = writeln!(text, "{row}");
    }
    for note in sections.iter().flat_map(|section| &section.notes) {
        let _ = write!(text, "\n{note}\n");
    }
    text
}

/// A figure in each round, sorted. Printed as its median and its interquartile range.
#[derive(Clone, Debug)]
pub(crate) struct Spread(Vec<f64>);

impl FromIterator<f64> for Spread {
    fn from_iter<T: IntoIterator<Item = f64>>(figures: T) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        Self(figures)
    }
}

impl Spread {
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let place = share * (self.0.len() - 1) as f64;
        let (below, above) = (self.0[place.floor() as usize], self.0[place.ceil() as usize]);
        below + (above - below) * place.fract()
    }

    pub(crate) fn with_range(&self, digits: usize) -> String {
        if self.0.len() == 1 {
            return format!("{:.digits$}", self.median());
        }
        let (low, high) = (self.quantile(0.25), self.quantile(0.75));
        format!("{:.digits$} ({low:.digits$} to {high:.digits$})", self.median())
    }
}
