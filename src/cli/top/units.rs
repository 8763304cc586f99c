//! Numbers in a readable form, short enough for a table.

use super::histogram::Quantile;

/// Shown if there is no number.
pub(super) const NONE: &str = "-";

/// Events per second, or a count.
pub(super) fn number(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        v if v < 9.95 && v.fract() != 0.0 => format!("{v:.1}"),
        v if v < 99_999.5 => format!("{v:.0}"),
        v if v < 9_999_500.0 => format!("{:.0}k", v / 1e3),
        v => format!("{:.0}M", v / 1e6),
    }
}

/// A short time, such as the duration of a decision or a clock skew.
pub(super) fn seconds(value: f64) -> String {
    match value.abs() {
        0.0 => "0 s".to_owned(),
        v if v < 0.000_999_5 => format!("{:.0} µs", value * 1e6),
        v if v < 0.009_995 => format!("{:.2} ms", value * 1e3),
        v if v < 0.999_5 => format!("{:.0} ms", value * 1e3),
        v if v < 99.95 => format!("{value:.1} s"),
        _ => format!("{value:.0} s"),
    }
}

pub(super) fn quantile(value: Option<Quantile>) -> String {
    match value {
        None => NONE.to_owned(),
        Some(Quantile::Near(value)) => seconds(value),
        Some(Quantile::AtMost(bound)) => format!("<{}", seconds(bound)),
        Some(Quantile::Above(bound)) => format!(">{}", seconds(bound)),
    }
}

/// A long time, such as the uptime of a process: its two largest units.
pub(super) fn duration(seconds: f64) -> String {
    let whole = whole(seconds);
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", whole % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

pub(super) fn bytes(value: f64) -> String {
    match value / 1_048_576.0 {
        mib if mib < 0.095 => format!("{:.0} KiB", value / 1024.0),
        mib if mib < 99.95 => format!("{mib:.1} MiB"),
        mib if mib < 9_999.5 => format!("{mib:.0} MiB"),
        mib => format!("{:.1} GiB", mib / 1024.0),
    }
}

/// A share in percent. Never rounds up to 100 %.
pub(super) fn share(value: f64) -> String {
    match value * 100.0 {
        percent if (99.9..100.0).contains(&percent) => {
            format!("{:.2} %", (percent * 100.0).floor() / 100.0)
        }
        percent => format!("{percent:.1} %"),
    }
}

/// Rounds to a `u64`, saturating.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, which is what is wanted"
)]
pub(super) fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.04, "0.0"),
            (3.0, "3"),
            (3.25, "3.2"),
            (12.5, "12"),
            (22_500.0, "22500"),
            (123_456.0, "123k"),
            (2.5e7, "25M"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        for (value, text) in [
            (0.0, "0 s"),
            (44e-6, "44 µs"),
            (0.001, "1.00 ms"),
            (0.0999, "100 ms"),
            (-0.25, "-250 ms"),
            (-12.34, "-12.3 s"),
            (3600.0, "3600 s"),
        ] {
            assert_eq!(seconds(value), text);
        }
        assert_eq!(quantile(Some(Quantile::Above(1.0))), ">1.0 s");
        assert_eq!(quantile(None), "-");
        for (value, text) in
            [(0.2, "0s"), (59.0, "59s"), (61.0, "1m 1s"), (7_500.0, "2h 5m"), (90_000.0, "1d 1h")]
        {
            assert_eq!(duration(value), text);
        }
    }

    #[test]
    fn sizes_and_shares_are_short() {
        for (value, text) in [
            (2_048.0, "2 KiB"),
            (25_165_824.0, "24.0 MiB"),
            (161_480_704.0, "154 MiB"),
            (1.1e11, "102.4 GiB"),
        ] {
            assert_eq!(bytes(value), text);
        }
        for (value, text) in [(1.0, "100.0 %"), (0.999_99, "99.99 %"), (0.5, "50.0 %")] {
            assert_eq!(share(value), text);
        }
    }
}
