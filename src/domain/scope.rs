//! Scopes: what a principal, a key or a token may be used for (RFC 6749 section 3.3).

use std::fmt;

use serde::Serialize;

/// A set of scope tokens, sorted, without duplicates, and separated by single spaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Scopes(Box<str>);

/// A scope token violates the grammar of RFC 6749: visible ASCII without `"` and `\`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "malformed scope {0:?}: a scope is made of visible ASCII characters other than '\"' and '\\'"
)]
pub struct MalformedScope(pub String);

impl Scopes {
    /// Parses a list separated by spaces, in any order.
    pub fn parse(list: &str) -> Result<Self, MalformedScope> {
        let mut tokens: Vec<&str> = list.split_ascii_whitespace().collect();
        if let Some(malformed) = tokens.iter().find(|token| !is_scope_token(token)) {
            return Err(MalformedScope((*malformed).to_owned()));
        }
        tokens.sort_unstable();
        tokens.dedup();
        Ok(Self(tokens.join(" ").into()))
    }

    /// The tokens, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split_ascii_whitespace()
    }

    /// Whether the set contains `token`.
    pub fn contains(&self, token: &str) -> bool {
        self.iter().any(|held| held == token)
    }

    /// The intersection of this set and `other`.
    #[must_use]
    pub fn narrowed_by(&self, other: &Self) -> Self {
        let kept: Vec<&str> = self.iter().filter(|token| other.contains(token)).collect();
        Self(kept.join(" ").into())
    }

    /// The wire format: tokens separated by single spaces; empty if there are none.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `list` has at least one token, and all of its tokens, separated by spaces, are
/// well-formed.
pub fn is_scope_list(list: &str) -> bool {
    let mut tokens = list.split_ascii_whitespace().peekable();
    tokens.peek().is_some() && tokens.all(is_scope_token)
}

fn is_scope_token(token: &str) -> bool {
    token.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_canonical_and_narrow() {
        let scopes = Scopes::parse(" b  a b ").unwrap();
        assert_eq!(scopes.as_str(), "a b");
        assert!(scopes.contains("a") && !scopes.contains("ab"));
        assert_eq!(scopes.narrowed_by(&Scopes::parse("b c").unwrap()).as_str(), "b");
        assert!(Scopes::parse("").unwrap().is_empty());
    }

    #[test]
    fn quotes_backslashes_and_other_alphabets_are_refused() {
        for list in ["a\"", "a\\b", "é", "a\u{7f}"] {
            assert!(Scopes::parse(list).is_err() && !is_scope_list(list), "{list:?}");
        }
        assert!(
            is_scope_list("a b")
                && !is_scope_list("")
                && !is_scope_list(" ")
                && !is_scope_list("a \"")
        );
    }
}
