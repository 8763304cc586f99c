//! The clock of the process.

use std::{
    sync::LazyLock,
    time::{Instant, SystemTime},
};

use crate::{
    domain::{
        forward_clock::{ForwardClock, Reading, Step},
        time::UnixMillis,
    },
    engine::ports::Clock,
};

/// The system's clock, which never goes back within a process. All instances share one state.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

struct ProcessClock {
    began: Instant,
    forward: ForwardClock,
}

static CLOCK: LazyLock<ProcessClock> = LazyLock::new(|| {
    let began = Instant::now();
    ProcessClock { began, forward: ForwardClock::new(read(began)) }
});

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        let ProcessClock { began, forward } = &*CLOCK;
        let monotonic = elapsed_ms(*began);
        if let Some(now) = forward.steady(monotonic, SystemTime::now().into()) {
            return now;
        }
        let (now, step) = forward.now(read(*began));
        match step {
            None => {}
            Some(Step::SetBack(by)) => tracing::error!(
                by_seconds = by.as_secs_f64(),
                "the system clock was set back: self-signed tokens are denied until it has caught up"
            ),
            Some(Step::CaughtUp) => tracing::info!(
                "the system clock has caught up: new self-signed tokens are accepted again"
            ),
        }
        now
    }

    fn set_back_from(&self) -> UnixMillis {
        CLOCK.forward.set_back_from()
    }
}

fn read(began: Instant) -> Reading {
    Reading {
        monotonic_before: elapsed_ms(began),
        system: SystemTime::now().into(),
        monotonic_after: elapsed_ms(began),
    }
}

fn elapsed_ms(began: Instant) -> i64 {
    i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX)
}
