//! Numbers of a payload, read digit by digit. A float would round them: a token's time by up to a
//! quarter of a microsecond, which no window notices, and a nonce to that of another token.

use serde_json::value::RawValue;

use crate::domain::time::{TokenTime, UnixMillis};

/// Whether a JSON value is a number.
pub(super) fn is_number(value: &RawValue) -> bool {
    value.get().starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

/// A JSON number of seconds as a moment; `None` if the value is not a number. Times out of range
/// saturate.
pub(super) fn seconds(value: &RawValue) -> Option<TokenTime> {
    is_number(value).then(|| moment(value.get()))
}

/// `text` must be a JSON number (RFC 8259 section 6).
fn moment(text: &str) -> TokenTime {
    let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (mantissa, exponent) = text
        .split_once(['e', 'E'])
        .map_or((text, 0), |(mantissa, text)| (mantissa, exponent(text)));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // The number of digits before the point, if milliseconds are counted.
    let before_point = place(whole.len()).saturating_add(exponent).saturating_add(3);
    let (mut millis, mut is_between) = (0_i64, false);
    for (index, digit) in whole.bytes().chain(fraction.bytes()).enumerate() {
        let digit = i64::from(digit.saturating_sub(b'0'));
        if place(index) < before_point {
            millis = millis.saturating_mul(10).saturating_add(digit);
        } else {
            is_between |= digit != 0;
        }
    }
    // This many zeros saturate every number except zero.
    let zeros = before_point.saturating_sub(place(whole.len() + fraction.len())).clamp(0, 19);
    for _ in 0..zeros {
        millis = millis.saturating_mul(10);
    }
    match (is_negative, is_between) {
        (false, _) => TokenTime::new(UnixMillis(millis), is_between),
        (true, false) => TokenTime::new(UnixMillis(-millis), false),
        (true, true) => TokenTime::new(UnixMillis((-millis).saturating_sub(1)), true),
    }
}

/// Saturates far beyond what any number of digits could make up for.
fn exponent(text: &str) -> i64 {
    const FAR: i64 = 1 << 40;
    let beyond = if text.starts_with('-') { -FAR } else { FAR };
    text.parse().map_or(beyond, |exponent: i64| exponent.clamp(-FAR, FAR))
}

fn place(index: usize) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn seconds_are_taken_exactly() {
        for (text, floor, is_between) in [
            ("0", 0, false),
            ("-0", 0, false),
            ("-0.0", 0, false),
            ("1764300000", 1_764_300_000_000, false),
            ("1764300000.0", 1_764_300_000_000, false),
            ("1764300000.337586", 1_764_300_000_337, true),
            ("1764300000.337", 1_764_300_000_337, false),
            ("1764300000.3370000000000000000000000000000000000001", 1_764_300_000_337, true),
            ("1.7643e9", 1_764_300_000_000, false),
            ("1.7643E+9", 1_764_300_000_000, false),
            ("17643000000000000000e-10", 1_764_300_000_000, false),
            ("0.0000000017643e18", 1_764_300_000_000, false),
            ("1.5e-3", 1, true),
            ("1e-400", 0, true),
            ("0e400", 0, false),
            ("0e99999999999999999999", 0, false),
            ("1e-99999999999999999999", 0, true),
            ("-1.5", -1_500, false),
            ("-0.0001", -1, true),
            ("-1764300000.9999", -1_764_300_001_000, true),
            ("1e400", i64::MAX, false),
            ("1e99999999999999999999", i64::MAX, false),
            ("-1e400", -i64::MAX, false),
            ("123456789012345678901234567890", i64::MAX, false),
            ("9223372036854775807", i64::MAX, false),
        ] {
            assert_eq!(moment(text), TokenTime::new(UnixMillis(floor), is_between), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_point_may_stand_anywhere(millis in -4_000_000_000_000_i64..4_000_000_000_000, shift in 0_usize..40) {
            let exact = TokenTime::new(UnixMillis(millis), false);
            prop_assert_eq!(moment(&format!("{millis}e-3")), exact);
            prop_assert_eq!(moment(&format!("{millis}{}e-{}", "0".repeat(shift), shift + 3)), exact);
            let (sign, digits) = (if millis < 0 { "-" } else { "" }, millis.unsigned_abs());
            prop_assert_eq!(moment(&format!("{sign}0.{}{digits:020}e{}", "0".repeat(shift), shift + 17)), exact);
        }
    }
}
