//! Digests of bodies, as in the `Content-Digest` header (RFC 9530).

use std::{fmt, str::FromStr};

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use base64::{Engine, prelude::BASE64_STANDARD};

const SHA256_LENGTH: usize = 32;
const SHA512_LENGTH: usize = 64;

/// The SHA-256 digest of a body, its SHA-512 digest, or both: the active algorithms of RFC 9530. At
/// least one is present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentDigest {
    sha256: Option<[u8; SHA256_LENGTH]>,
    sha512: Option<Box<[u8; SHA512_LENGTH]>>,
}

impl ContentDigest {
    /// The SHA-256 of `body`.
    pub fn of(body: &[u8]) -> Self {
        Self { sha256: hash(&SHA256, body), sha512: None }
    }

    /// Whether `body` matches every digest that is present.
    pub fn matches(&self, body: &[u8]) -> bool {
        self.sha256.as_ref().is_none_or(|expected| digest(&SHA256, body).as_ref() == expected)
            && self
                .sha512
                .as_ref()
                .is_none_or(|expected| digest(&SHA512, body).as_ref() == expected.as_slice())
    }
}

fn hash<const N: usize>(
    algorithm: &'static aws_lc_rs::digest::Algorithm,
    body: &[u8],
) -> Option<[u8; N]> {
    digest(algorithm, body).as_ref().try_into().ok()
}

/// The text has no digest that can be checked: it violates the grammar, names an algorithm twice,
/// or has neither `sha-256` nor `sha-512`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a Content-Digest with sha-256 or sha-512, such as sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
)]
pub struct NotADigest;

impl FromStr for ContentDigest {
    type Err = NotADigest;

    /// Parses a dictionary of byte sequences (RFC 8941). Other algorithms are ignored, since a
    /// sender may add digests that not everyone knows. Parameters are refused: RFC 9530 defines
    /// none.
    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let mut found = Self { sha256: None, sha512: None };
        for member in text.split(',') {
            let (algorithm, item) =
                member.trim_matches([' ', '\t']).split_once('=').ok_or(NotADigest)?;
            let encoded =
                item.strip_prefix(':').and_then(|item| item.strip_suffix(':')).ok_or(NotADigest)?;
            let is_twice = match algorithm {
                "sha-256" => found.sha256.replace(decoded(encoded)?).is_some(),
                "sha-512" => found.sha512.replace(Box::new(decoded(encoded)?)).is_some(),
                other if is_key(other) => false,
                _ => return Err(NotADigest),
            };
            if is_twice {
                return Err(NotADigest);
            }
        }
        if found.sha256.is_none() && found.sha512.is_none() { Err(NotADigest) } else { Ok(found) }
    }
}

fn decoded<const N: usize>(encoded: &str) -> Result<[u8; N], NotADigest> {
    let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| NotADigest)?;
    bytes.try_into().map_err(|_| NotADigest)
}

/// RFC 8941 section 3.1.2.
fn is_key(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase() || first == '*')
        && text.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)
        })
}

/// The value of a `Content-Digest` header.
impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(digest) = &self.sha256 {
            write!(f, "sha-256=:{}:", BASE64_STANDARD.encode(digest))?;
        }
        if let Some(digest) = &self.sha512 {
            let separator = if self.sha256.is_some() { ", " } else { "" };
            write!(f, "{separator}sha-512=:{}:", BASE64_STANDARD.encode(digest.as_slice()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// From RFC 9530 appendix D: the digest of `{"hello": "world"}` and a line feed.
    const SHA256_OF_HELLO: &str = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
    const SHA512_OF_HELLO: &str = "sha-512=:YMAam51Jz/jOATT6/zvHrLVgOYTGFy1d6GJiOHTohq4yP+pgk4vf2aCsyRZOtw8MjkM7iw7yZ/WkppmM44T3qg==:";
    const HELLO: &[u8] = b"{\"hello\": \"world\"}\n";

    #[test]
    fn the_examples_of_the_rfc_match() {
        for text in [
            SHA256_OF_HELLO.to_owned(),
            SHA512_OF_HELLO.to_owned(),
            format!("{SHA256_OF_HELLO}, {SHA512_OF_HELLO}"),
            format!("md5=:AAAA:,\t{SHA512_OF_HELLO} , {SHA256_OF_HELLO}"),
        ] {
            let digest: ContentDigest = text.parse().unwrap();
            assert!(digest.matches(HELLO), "{text}");
            assert!(!digest.matches(b"{\"hello\": \"world\"}"), "{text}");
        }
        assert_eq!(ContentDigest::of(HELLO).to_string(), SHA256_OF_HELLO);
    }

    #[test]
    fn every_digest_must_match() {
        let other = ContentDigest::of(b"other");
        let both: ContentDigest = format!("{other}, {SHA512_OF_HELLO}").parse().unwrap();
        assert!(!both.matches(HELLO) && !both.matches(b"other"));
    }

    #[test]
    fn what_cannot_be_checked_is_no_digest() {
        for text in [
            "",
            ",",
            "sha-256",
            "sha-256=",
            "sha-256=::",
            "sha-256=:RK/0:",
            "sha-256=RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=",
            "sha-256=:RK_0qy18MlBSVnWgjwz6lZEWjP_lF5HF9bvEF8FabDg=:",
            "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg:",
            "SHA-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:",
            "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:;q=1",
            "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:,",
            "md5=:AAAA:",
        ] {
            assert_eq!(text.parse::<ContentDigest>(), Err(NotADigest), "{text}");
        }
        assert_eq!(
            format!("{SHA256_OF_HELLO},{SHA256_OF_HELLO}").parse::<ContentDigest>(),
            Err(NotADigest)
        );
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(body: Vec<u8>, other: Vec<u8>) {
            let digest = ContentDigest::of(&body);
            prop_assert_eq!(digest.to_string().parse::<ContentDigest>().unwrap(), digest.clone());
            prop_assert_eq!(digest.matches(&other), body == other);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*", member in "[a-z0-9-]{0,8}=:[A-Za-z0-9+/=]{0,90}:") {
            let _ = (text.parse::<ContentDigest>(), member.parse::<ContentDigest>());
        }
    }
}
