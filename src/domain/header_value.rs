//! Encodes values of an identity as header values.

use bytestring::ByteString;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::scope::Scopes;

/// All bytes except visible ASCII (0x21 to 0x7E), and `%` itself, so that every value can be
/// decoded unambiguously.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// Percent-encodes (RFC 3986) the UTF-8 bytes of `value` that are not visible ASCII, and `%`.
pub fn encode(value: &str) -> String {
    utf8_percent_encode(value, ENCODED).to_string()
}

/// Encodes each scope as [`encode`] does, and joins them with single spaces.
pub fn encode_scopes(scopes: &Scopes) -> String {
    scopes.iter().map(encode).collect::<Vec<_>>().join(" ")
}

/// `N` header values prepared in advance, in a single buffer. Getting one does not copy.
#[derive(Clone, Debug)]
pub struct Prepared<const N: usize> {
    all: ByteString,
    /// The end of each value in `all`.
    ends: [u32; N],
}

impl<const N: usize> Prepared<N> {
    /// Joins `values`, which must already be encoded.
    pub fn new(values: [&str; N]) -> Self {
        let mut all = String::with_capacity(values.iter().map(|value| value.len()).sum());
        let ends = values.map(|value| {
            all.push_str(value);
            // Names and lists of scopes are limited to far less than `u32::MAX` bytes.
            u32::try_from(all.len()).unwrap_or(u32::MAX)
        });
        Self { all: all.into(), ends }
    }

    /// The value at `index`, without a copy.
    pub fn value(&self, index: usize) -> ByteString {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.all.slice_ref(&self.all[start as usize..self.ends[index] as usize])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_must_be_is_encoded() {
        assert_eq!(encode("svc-a@example.com"), "svc-a@example.com");
        assert_eq!(encode("ü 100%"), "%C3%BC%20100%25");
        assert_eq!(encode("a\r\nX-Evil: 1"), "a%0D%0AX-Evil:%201");
        assert_eq!(encode_scopes(&Scopes::parse("orders:read a%b").unwrap()), "a%25b orders:read");
    }

    #[test]
    fn prepared_values_are_told_apart() {
        let prepared = Prepared::new(["", "alice", "", "a b"]);
        assert_eq!([0, 1, 2, 3].map(|index| prepared.value(index)), ["", "alice", "", "a b"]);
    }

    proptest! {
        #[test]
        fn values_survive_the_wire_and_come_back(value in ".*") {
            let encoded = encode(&value);
            prop_assert!(encoded.bytes().all(|byte| (0x21..0x7f).contains(&byte)));
            prop_assert_eq!(percent_encoding::percent_decode_str(&encoded).decode_utf8().unwrap(), value);
        }
    }
}
