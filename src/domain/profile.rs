//! Names and e-mail addresses of principals, and which of them go into access tokens.

use std::str::FromStr;

use serde::Serialize;

/// The person behind a principal. Decisions do not use it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// Given name.
    pub given_name: Option<String>,
    /// Family name.
    pub family_name: Option<String>,
    /// E-mail address.
    pub email: Option<String>,
}

/// A part of the profile that goes into access tokens, and the claim's name. Written `given_name`,
/// or `given_name=first_name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileClaim {
    field: ProfileField,
    claim: Box<str>,
}

impl ProfileClaim {
    /// The claim's name and value; `None` if the profile has no value.
    pub fn of<'a>(&'a self, profile: &'a Profile) -> Option<(&'a str, &'a str)> {
        let value = match self.field {
            ProfileField::GivenName => &profile.given_name,
            ProfileField::FamilyName => &profile.family_name,
            ProfileField::Email => &profile.email,
        };
        Some((&self.claim, value.as_deref()?))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProfileField {
    GivenName,
    FamilyName,
    Email,
}

/// The text names no part of the profile, or a claim that has another meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "accepted are given_name, family_name and email, each as it is or as FIELD=CLAIM, where CLAIM has no other meaning"
)]
pub struct UnknownProfileField;

/// Claims that a profile must not replace.
const TAKEN: [&str; 15] = [
    "iss",
    "sub",
    "aud",
    "iat",
    "nbf",
    "exp",
    "jti",
    "ttype",
    "username",
    "principal_id",
    "identifier",
    "token_id",
    "scope",
    "sid",
    "cnf",
];

impl FromStr for ProfileClaim {
    type Err = UnknownProfileField;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (field, claim) = text.split_once('=').unwrap_or((text, text));
        let field = match field {
            "given_name" => ProfileField::GivenName,
            "family_name" => ProfileField::FamilyName,
            "email" => ProfileField::Email,
            _ => return Err(UnknownProfileField),
        };
        if claim.is_empty() || TAKEN.contains(&claim) {
            return Err(UnknownProfileField);
        }
        Ok(Self { field, claim: claim.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_parts_of_the_profile_under_free_names() {
        let profile = Profile { given_name: Some("Ada".to_owned()), ..Profile::default() };
        let claim = |text: &str| text.parse::<ProfileClaim>();
        assert_eq!(claim("given_name").unwrap().of(&profile), Some(("given_name", "Ada")));
        assert_eq!(
            claim("given_name=first_name").unwrap().of(&profile),
            Some(("first_name", "Ada"))
        );
        assert_eq!(claim("email").unwrap().of(&profile), None);
        for bad in ["", "username", "email=", "email=sub", "email=exp", "given_name=token_id"] {
            assert_eq!(claim(bad), Err(UnknownProfileField), "{bad}");
        }
    }
}
