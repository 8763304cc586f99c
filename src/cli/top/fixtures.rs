//! Two metrics responses of a service, two seconds apart, and the snapshots made of them.

use std::time::{Duration, Instant};

use super::{
    exposition::parse,
    replica::{Look, Reading, State},
    screen::Snapshot,
};

/// Time of the second scrape: an hour and a minute after the process started.
const AT: f64 = 1_700_003_660.0;

pub(super) fn before(start: Instant) -> Look {
    Look {
        state: State::Up,
        reading: Some(Reading::of(&parse(include_str!("fixtures/before.prom")).unwrap(), start)),
    }
}

pub(super) fn after(start: Instant) -> Look {
    let state = State::NotReady(vec!["nonce_store".to_owned()]);
    let at = start + Duration::from_secs(2);
    Look {
        state,
        reading: Some(Reading::of(&parse(include_str!("fixtures/after.prom")).unwrap(), at)),
    }
}

fn refused() -> Look {
    Look {
        state: State::Unreachable("Connection refused (os error 111)".to_owned()),
        reading: None,
    }
}

/// One replica, whose nonce store went down between the scrapes.
pub(super) fn one() -> Snapshot {
    let start = Instant::now();
    let mut snapshot = Snapshot::of(["http://127.0.0.1:8081"]);
    snapshot.take(vec![before(start)], AT);
    snapshot.take(vec![after(start)], AT);
    snapshot
}

/// That replica, another with the same figures, and one that cannot be reached.
pub(super) fn three() -> Snapshot {
    let start = Instant::now();
    let mut snapshot =
        Snapshot::of(["http://10.0.0.1:8081", "http://10.0.0.2:8081", "http://10.0.0.3:8081"]);
    snapshot.take(vec![before(start), before(start), refused()], AT);
    snapshot.take(vec![after(start), after(start), refused()], AT);
    snapshot
}
