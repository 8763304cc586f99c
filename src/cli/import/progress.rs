//! How far an import is: a bar on a terminal, else a line now and then.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};

use crate::engine::import::Progress;

/// How many accounts are between two lines.
const LINE_EVERY: u64 = 1000;

/// How far an import is, for people, on standard error.
pub(super) enum Shown {
    Bar(ProgressBar),
    Lines { told: u64 },
}

impl Shown {
    pub(super) fn on_standard_error() -> Self {
        if !io::stderr().is_terminal() {
            return Self::Lines { told: 0 };
        }
        let style = ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len} accounts, {eta} left");
        Self::Bar(ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    pub(super) fn update(&mut self, progress: Progress) {
        let Progress { done, total } = progress;
        match self {
            Self::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Self::Lines { told } if done >= *told + LINE_EVERY => {
                *told = done;
                // Where standard error is closed there is nobody to tell.
                drop(writeln!(io::stderr(), "{done} of {total} accounts"));
            }
            Self::Lines { .. } => {}
        }
    }

    pub(super) fn finish(self) {
        match self {
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::Lines { .. } => {}
        }
    }
}
