//! Identity values as header values.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::scope::Scopes;

/// Everything outside visible ASCII (0x21 to 0x7E), and `%` itself, so that every value can be decoded unambiguously.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// Percent-encodes (RFC 3986) the UTF-8 bytes of `value` that are not visible ASCII, and `%`.
pub fn encode(value: &str) -> String {
    utf8_percent_encode(value, ENCODED).to_string()
}

/// The tokens of `scopes`, each encoded as [`encode`] does, separated by single spaces.
pub fn encode_scopes(scopes: &Scopes) -> String {
    scopes.iter().map(encode).collect::<Vec<_>>().join(" ")
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

    proptest! {
        #[test]
        fn values_survive_the_wire_and_come_back(value in ".*") {
            let encoded = encode(&value);
            prop_assert!(encoded.bytes().all(|byte| (0x21..0x7f).contains(&byte)));
            prop_assert_eq!(percent_encoding::percent_decode_str(&encoded).decode_utf8().unwrap(), value);
        }
    }
}
