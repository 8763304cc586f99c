//! Parsing JSON from outside: text must be UTF-8, and an object must be an object.
//!
//! A derived `Deserialize` also accepts an array for a struct, member by member: `[false]` for
//! `{"is_active": false}`. And it never checks the bytes of strings that nobody reads. So all JSON
//! from outside is parsed here, and never with `serde_json` alone (`tests/layering.rs`).

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// Parses exactly one JSON object.
pub fn object<'de, T: Deserialize<'de>>(json: &'de [u8]) -> serde_json::Result<T> {
    serde_json::from_str(text(json)?).map(|Object(value)| value)
}

/// The text of a JSON string from a parsed document. Borrowed unless it contains escapes.
pub fn string(json: &str) -> serde_json::Result<Cow<'_, str>> {
    match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(text) if !text.contains(['\\', '"']) => Ok(Cow::Borrowed(text)),
        _ => serde_json::from_str(json).map(Cow::Owned),
    }
}

/// Checks that a JSON document is UTF-8 (RFC 8259 section 8.1).
pub fn text(json: &[u8]) -> serde_json::Result<&str> {
    std::str::from_utf8(json).map_err(|_| serde_json::Error::custom("the text is not UTF-8"))
}

/// A `T` that must be an object in JSON, never an array. For members that are structs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(Members(PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Outer<'a> {
        is_active: Option<bool>,
        #[serde(borrow, default)]
        inner: Vec<Object<Inner<'a>>>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner<'a> {
        #[serde(borrow)]
        name: Cow<'a, str>,
    }

    #[test]
    fn objects_are_read() {
        let read: Outer<'_> = object(
            br#" {"inner": [{"name": "a"}, {"name": "b", "more": []}], "is_active": false} "#,
        )
        .unwrap();
        assert_eq!(read.is_active, Some(false));
        assert_eq!(
            read.inner.iter().map(|Object(inner)| &*inner.name).collect::<Vec<_>>(),
            ["a", "b"]
        );
    }

    #[test]
    fn strings_are_borrowed_unless_they_hold_escapes() {
        assert!(matches!(string("\"a b\""), Ok(Cow::Borrowed("a b"))));
        assert_eq!(string(r#""a\"\u00e9""#).unwrap(), "a\"é");
        for json in ["5", "\"", "a", "null", r#""\ud800""#, r#""a" "#, r#""a"b""#] {
            assert_eq!(string(json).ok(), (json == r#""a" "#).then_some("a".into()), "{json}");
        }
    }

    #[test]
    fn nothing_else_is_an_object() {
        for json in [
            "[false]",
            "[]",
            "[null, []]",
            "[{}]",
            "null",
            "false",
            "1",
            "\"\"",
            "",
            "{",
            "{} {}",
            r#"{"inner": [["a"]]}"#,
            r#"{"is_active": true, "is_active": false}"#,
        ] {
            assert!(object::<Outer<'_>>(json.as_bytes()).is_err(), "{json}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_refused_wherever_they_stand() {
        for json in [
            &b"{\"is_active\": true, \"other\": \"\xff\"}"[..],
            b"{\"\xff\": 1}",
            b"{}\xff",
            b"{\"inner\": [{\"name\": \"\xc3\"}]}",
        ] {
            assert!(object::<Outer<'_>>(json).is_err(), "{json:?}");
        }
    }
}
