//! What an operator may ask for when giving tokens out.

use crate::domain::scope::Scopes;

/// Most audiences of one token, the longest of them, and the longest `sid`, in characters: tokens
/// are sent with every request.
const AUDIENCES_MAX: usize = 20;
const AUDIENCE_CHARACTERS_MAX: usize = 255;
const SID_CHARACTERS_MAX: usize = 255;

/// What an operator asks for. Audiences have no spaces in them: spaces stand between them where
/// they are kept.
#[derive(Clone, Debug, Default)]
pub struct MintTerms {
    pub(super) audience: Option<Vec<String>>,
    pub(super) scopes: Option<Scopes>,
    pub(super) sid: Option<String>,
}

/// Something that an operator asks for cannot be in a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedTerms {
    /// There are too many audiences.
    #[error("too many audiences; accepted are up to {AUDIENCES_MAX}")]
    TooManyAudiences,
    /// The audience at that place is none.
    #[error(
        "malformed audience: an audience has 1 to {AUDIENCE_CHARACTERS_MAX} visible characters, none of them a space"
    )]
    Audience(usize),
    /// The `sid` is none.
    #[error(
        "sid has to have 1 to {SID_CHARACTERS_MAX} characters, none of them a control character"
    )]
    Sid,
}

impl MintTerms {
    /// `audience` instead of the usual `aud`, none where it is empty; of `scopes` what the
    /// principal may do, instead of all of it; and `sid`, the session at the back end.
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
