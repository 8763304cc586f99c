//! What an operator may ask for when issuing tokens.

use crate::domain::scope::Scopes;

/// Maximum number of audiences of a token. Limited because tokens are sent with every request, as
/// are the lengths below, in characters.
const AUDIENCES_MAX: usize = 20;
const AUDIENCE_CHARACTERS_MAX: usize = 255;
const SID_CHARACTERS_MAX: usize = 255;

/// The terms of tokens that an operator asks for. An audience has no spaces: they separate
/// audiences in the database.
#[derive(Clone, Debug, Default)]
pub struct MintTerms {
    pub(super) audience: Option<Vec<String>>,
    pub(super) scopes: Option<Scopes>,
    pub(super) sid: Option<String>,
}

/// Why the terms cannot be used for a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedTerms {
    /// There are too many audiences.
    #[error("too many audiences; accepted are up to {AUDIENCES_MAX}")]
    TooManyAudiences,
    /// The audience at this position is malformed.
    #[error(
        "malformed audience: an audience has 1 to {AUDIENCE_CHARACTERS_MAX} visible characters, none of them a space"
    )]
    Audience(usize),
    /// The `sid` is malformed.
    #[error(
        "sid has to have 1 to {SID_CHARACTERS_MAX} characters, none of them a control character"
    )]
    Sid,
}

impl MintTerms {
    /// `audience` replaces the default `aud`, unless it is empty. `scopes` are limited to those of
    /// the principal; `None` means all of them. `sid` is the back end's session id.
    pub fn new(
        audience: Option<Vec<String>>,
        scopes: Option<Scopes>,
        sid: Option<String>,
    ) -> Result<Self, MalformedTerms> {
        let audiences = audience.as_deref().unwrap_or_default();
        if audiences.len() > AUDIENCES_MAX {
            return Err(MalformedTerms::TooManyAudiences);
        }
        let is_bad = |text: &String| {
            !has_length(text, AUDIENCE_CHARACTERS_MAX)
                || text.contains(|c: char| c.is_control() || c.is_whitespace())
        };
        if let Some(place) = audiences.iter().position(is_bad) {
            return Err(MalformedTerms::Audience(place));
        }
        if sid.as_deref().is_some_and(|sid| {
            !has_length(sid, SID_CHARACTERS_MAX) || sid.contains(char::is_control)
        }) {
            return Err(MalformedTerms::Sid);
        }
        Ok(Self { audience, scopes, sid })
    }
}

fn has_length(text: &str, characters_max: usize) -> bool {
    (1..=characters_max).contains(&text.chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audience(list: &[&str]) -> Result<(), MalformedTerms> {
        MintTerms::new(Some(list.iter().map(|one| (*one).to_owned()).collect()), None, None)
            .map(drop)
    }

    #[test]
    fn audiences_are_visible_and_few() {
        let longest = "ü".repeat(255);
        for good in [
            [].as_slice(),
            &["orders"],
            &["https://api.example.com/", "名前"],
            &[longest.as_str()],
            &["a"; 20],
        ] {
            assert_eq!(audience(good), Ok(()), "{good:?}");
        }
        for bad in ["", "a b", " a", "a\t", "a\u{a0}b", "a\u{7}", &"a".repeat(256)] {
            assert_eq!(audience(&["good", bad]), Err(MalformedTerms::Audience(1)), "{bad:?}");
        }
        assert_eq!(audience(&["a"; 21]), Err(MalformedTerms::TooManyAudiences));
    }

    #[test]
    fn sessions_are_printable() {
        let sid = |text: &str| MintTerms::new(None, None, Some(text.to_owned())).map(drop);
        for good in ["s", "a session", &"ü".repeat(255)] {
            assert_eq!(sid(good), Ok(()), "{good:?}");
        }
        for bad in ["", "a\nb", &"s".repeat(256)] {
            assert_eq!(sid(bad), Err(MalformedTerms::Sid), "{bad:?}");
        }
    }
}
