//! JWK Sets (RFC 7517 section 5): which keys of one are used, why the others are not, and which of
//! them a token is tried with.

use std::{borrow::Cow, collections::HashMap, error::Error, fmt};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    algorithm::KeyFamily,
    json,
    key::{Jwk, KeyError, ParsedPublic, VerifyingKey},
};

/// Most entries that a set may have. More are no key set but an attack on memory.
const ENTRIES_MAX: usize = 100;
/// How deep the JSON of a key set may nest. A JWK Set needs 4: set, array, key, `x5c`.
const DEPTH_MAX: usize = 8;
/// Longest texts of a set that are repeated in reports, in characters.
const KID_CHARACTERS_MAX: usize = 100;
const KIND_CHARACTERS_MAX: usize = 40;
const REASON_CHARACTERS_MAX: usize = 300;
/// Some programs write it before JSON (RFC 8259 section 8.1 lets readers skip it).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The keys of a set that can verify tokens.
#[derive(Debug, Default)]
pub struct KeySet {
    /// In the order of the set. Entries that are equal are one.
    keys: Box<[SetKey]>,
    /// What the set calls its keys, and where in `keys` each is: sorted by name, and by the order
    /// of the set below that. Keys without a `kid` are not in it.
    names: Box<[(Box<str>, usize)]>,
    /// Where the keys without a `kid` are.
    nameless: Box<[usize]>,
    contents: KeySetContents,
}

#[derive(Debug)]
struct SetKey {
    key: VerifyingKey,
    /// Whether the same key is in the set for every algorithm, too.
    is_covered: bool,
}

/// What a set has for us, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySetContents {
    /// How many of its keys are used. The same key under two names counts twice, the same entry
    /// twice counts once.
    pub usable_keys: usize,
    /// The entries that are not used, in the order of the set.
    pub left_out: Vec<LeftOutKey>,
}

/// An entry of a set that is not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutKey {
    /// What the set calls it, shortened if it is long; none if it has no name.
    pub kid: Option<String>,
    /// Its `kty`, with its `crv` if it has one; empty if it says none.
    pub kind: String,
    /// Why it is left out.
    pub reason: String,
    /// Whether its owner should know: it is a private key or a broken one. Others are for other
    /// uses, which is as it should be.
    #[serde(default)]
    pub is_alarming: bool,
}

impl fmt::Display for LeftOutKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kid {
            Some(kid) => write!(f, "kid {kid:?}")?,
            None => f.write_str("no kid")?,
        }
        if !self.kind.is_empty() {
            write!(f, ", {}", self.kind)?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// Why a text is no key set.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// Nested too deeply.
    #[error("the JSON nests deeper than {DEPTH_MAX}")]
    TooDeep,
    /// Too many keys.
    #[error("the set has more than {ENTRIES_MAX} keys")]
    TooManyKeys,
    /// Not a JWK Set.
    #[error("not a JWK Set")]
    NotAKeySet(#[source] serde_json::Error),
}

/// Members are read one by one: one that cannot be read must not spoil the others, whatever it
/// holds.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// As much of an entry as tells which one it is.
#[derive(Default, Deserialize)]
struct Label<'a> {
    #[serde(borrow)]
    kid: Option<&'a RawValue>,
    #[serde(borrow)]
    kty: Option<&'a RawValue>,
    #[serde(borrow)]
    crv: Option<&'a RawValue>,
}

impl KeySet {
    /// Reads a set. One with some unusable keys still serves its good ones.
    pub fn parse(body: &[u8]) -> Result<Self, KeySetError> {
        let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
        if nests_deeper_than(body, DEPTH_MAX) {
            return Err(KeySetError::TooDeep);
        }
        let document: Document<'_> = json::object(body).map_err(KeySetError::NotAKeySet)?;
        if document.keys.len() > ENTRIES_MAX {
            return Err(KeySetError::TooManyKeys);
        }
        let mut set = Building::default();
        for entry in document.keys {
            match usable(entry) {
                Ok((kid, key)) => set.add(kid, key),
                Err(fault) => set.left_out.push(LeftOutKey::new(entry, &fault)),
            }
        }
        Ok(set.done())
    }

    /// The keys that the set calls `kid`. Several can be meant: RFC 7517 section 4.5 lets keys of
    /// different kinds share a name, and others share one, too.
    pub fn named<'a>(&'a self, kid: &'a str) -> impl Iterator<Item = &'a VerifyingKey> {
        let start = self.names.partition_point(|(name, _)| &**name < kid);
        self.names[start..]
            .iter()
            .take_while(move |(name, _)| &**name == kid)
            .map(|(_, index)| &self.keys[*index].key)
    }

    /// The keys without a name, which a token may mean whatever name it gives.
    pub fn nameless(&self) -> impl Iterator<Item = &VerifyingKey> {
        self.nameless.iter().map(|index| &self.keys[*index].key)
    }

    /// Every key, for a token that names none.
    pub fn keys(&self) -> impl Iterator<Item = &VerifyingKey> {
        self.keys.iter().filter(|known| !known.is_covered).map(|known| &known.key)
    }

    /// What the set has for us.
    pub const fn contents(&self) -> &KeySetContents {
        &self.contents
    }

    /// How many keys a token of that kind can be tried with at most, if it names one, and if it
    /// names none.
    pub fn most_trials(&self, family: KeyFamily) -> MostTrials {
        let is_of_kind = |index: &usize| self.keys[*index].key.family() == family;
        let nameless = self.nameless.iter().filter(|index| is_of_kind(index)).count();
        let groups = self.names.chunk_by(|(name, _), (next, _)| name == next);
        let most_of_a_name = groups
            .map(|group| group.iter().filter(|(_, index)| is_of_kind(index)).count())
            .max()
            .unwrap_or(0);
        MostTrials {
            named: most_of_a_name + nameless,
            unnamed: self.keys().filter(|key| key.family() == family).count(),
        }
    }
}

/// How many keys of a set a token can be tried with at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MostTrials {
    /// If it names a key.
    pub named: usize,
    /// If it names none.
    pub unnamed: usize,
}

impl MostTrials {
    /// The larger of both, one by one.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { named: self.named.max(other.named), unnamed: self.unnamed.max(other.unnamed) }
    }
}

#[derive(Default)]
struct Building {
    keys: Vec<VerifyingKey>,
    /// By name; the keys without one are under the empty name, which no key has.
    names: HashMap<Box<str>, Vec<usize>>,
    left_out: Vec<LeftOutKey>,
}

impl Building {
    fn add(&mut self, kid: Option<String>, key: VerifyingKey) {
        let known = self.keys.iter().position(|known| known.covers(&key) && key.covers(known));
        let index = known.unwrap_or_else(|| {
            self.keys.push(key);
            self.keys.len() - 1
        });
        let named = self.names.entry(kid.unwrap_or_default().into()).or_default();
        if !named.contains(&index) {
            named.push(index);
        }
    }

    fn done(mut self) -> KeySet {
        // One that is there for every algorithm, too, would be tried twice.
        let is_covered = |keys: &[VerifyingKey], among: &[usize], index: usize| {
            among.iter().any(|other| *other != index && keys[*other].covers(&keys[index]))
        };
        for named in self.names.values_mut() {
            let all = named.clone();
            named.retain(|index| !is_covered(&self.keys, &all, *index));
        }
        let usable_keys = self.names.values().map(Vec::len).sum();
        let nameless = self.names.remove("").unwrap_or_default().into();
        let mut names: Vec<(Box<str>, usize)> = self
            .names
            .into_iter()
            .flat_map(|(name, keys)| keys.into_iter().map(move |index| (name.clone(), index)))
            .collect();
        names.sort_unstable();
        let everywhere: Vec<usize> = (0..self.keys.len()).collect();
        let covered: Vec<bool> =
            everywhere.iter().map(|index| is_covered(&self.keys, &everywhere, *index)).collect();
        let keys = self
            .keys
            .into_iter()
            .zip(covered)
            .map(|(key, is_covered)| SetKey { key, is_covered })
            .collect();
        KeySet {
            keys,
            names: names.into(),
            nameless,
            contents: KeySetContents { usable_keys, left_out: self.left_out },
        }
    }
}

/// Why an entry is not used.
#[derive(Debug, thiserror::Error)]
enum EntryFault {
    #[error("not a JWK: {0}")]
    NotAJwk(#[from] serde_json::Error),
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The key of an entry with its name. An empty name is as good as none.
fn usable(entry: &RawValue) -> Result<(Option<String>, VerifyingKey), EntryFault> {
    let jwk: Jwk = json::object(entry.get().as_bytes())?;
    let key = ParsedPublic::from_jwk(&jwk)?.verifying_key();
    Ok((jwk.kid.filter(|kid| !kid.is_empty()), key))
}

impl LeftOutKey {
    fn new(entry: &RawValue, fault: &EntryFault) -> Self {
        let label: Label<'_> = json::object(entry.get().as_bytes()).unwrap_or_default();
        let text = |member: Option<&RawValue>, characters_max| {
            let member = member?.get();
            Some(shown(&json::string(member).unwrap_or(Cow::Borrowed(member)), characters_max))
        };
        let kind = [label.kty, label.crv]
            .into_iter()
            .filter_map(|member| text(member, KIND_CHARACTERS_MAX));
        Self {
            kid: text(label.kid, KID_CHARACTERS_MAX).filter(|kid| !kid.is_empty()),
            kind: kind.collect::<Vec<_>>().join(" "),
            reason: shown(&described(fault), REASON_CHARACTERS_MAX),
            is_alarming: matches!(
                fault,
                EntryFault::Key(
                    KeyError::PrivateKeyGiven
                        | KeyError::RsaTooSmall { .. }
                        | KeyError::RsaOfBrokenGenerator
                )
            ),
        }
    }
}

/// The fault and its causes. Where in the entry it was found is not said: nobody sees the entry as
/// it is read here.
fn described(fault: &EntryFault) -> String {
    let mut text = fault.to_string();
    let mut cause = fault.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.rfind(" at line ").map_or(text.clone(), |end| text[..end].to_owned())
}

/// `text` as it may be shown: short, and on one line.
fn shown(text: &str, characters_max: usize) -> String {
    let is_long = text.chars().nth(characters_max).is_some();
    let printable = |character: char| {
        if character.is_control() { char::REPLACEMENT_CHARACTER } else { character }
    };
    text.chars().take(characters_max).map(printable).chain(is_long.then_some('\u{2026}')).collect()
}

/// Counts brackets outside of strings; whether the text is JSON is for the parser to say.
fn nests_deeper_than(json: &[u8], depth_max: usize) -> bool {
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > depth_max {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests;
