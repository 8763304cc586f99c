//! JWK Sets (RFC 7517 section 5): which of their keys are usable, why the others are not, and which
//! keys a token is tried with.

use std::{borrow::Cow, collections::HashMap, error::Error, fmt};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    algorithm::KeyFamily,
    json,
    key::{Jwk, KeyError, ParsedPublic, VerifyingKey},
};

/// Maximum number of entries of a set. Larger ones are an attack on memory.
const ENTRIES_MAX: usize = 100;
/// Maximum nesting of a key set's JSON. A JWK Set needs 4: set, array, key, `x5c`.
const DEPTH_MAX: usize = 8;
/// Maximum length of texts of a set that are repeated in reports, in characters.
const KID_CHARACTERS_MAX: usize = 100;
const KIND_CHARACTERS_MAX: usize = 40;
const REASON_CHARACTERS_MAX: usize = 300;
/// Some programs write it before JSON; readers may skip it (RFC 8259 section 8.1).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The keys of a set that can verify tokens.
#[derive(Debug, Default)]
pub struct KeySet {
    /// In the order of the set, without duplicate entries.
    keys: Box<[SetKey]>,
    /// The names of keys, each with its key's index in `keys`: sorted by name, then by the order of
    /// the set. Keys without a `kid` are not included.
    names: Box<[(Box<str>, usize)]>,
    /// The indexes of keys without a `kid`.
    nameless: Box<[usize]>,
    contents: KeySetContents,
}

#[derive(Debug)]
struct SetKey {
    key: VerifyingKey,
    /// Whether the same key is also in the set without a limit on its algorithm.
    is_covered: bool,
}

/// The usable and unusable keys of a set, for display.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySetContents {
    /// The number of usable keys. The same key under two names counts twice, a duplicate entry
    /// once.
    pub usable_keys: usize,
    /// The unusable entries, in the order of the set.
    pub left_out: Vec<LeftOutKey>,
}

/// An unusable entry of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutKey {
    /// Its `kid`, shortened if it is long; `None` if it has none.
    pub kid: Option<String>,
    /// Its `kty`, and its `crv` if it has one; empty without `kty`.
    pub kind: String,
    /// Why it is unusable.
    pub reason: String,
    /// Whether its owner should know: it is a private key or a broken one. Others are intended for
    /// other uses, which is fine.
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

/// Why a document is not a key set.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// The JSON is nested too deeply.
    #[error("the JSON nests deeper than {DEPTH_MAX}")]
    TooDeep,
    /// There are too many entries.
    #[error("the set has more than {ENTRIES_MAX} keys")]
    TooManyKeys,
    /// The document is not a JWK Set.
    #[error("not a JWK Set")]
    NotAKeySet(#[source] serde_json::Error),
}

/// Members are parsed one by one, so that an invalid one does not spoil the others.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// The members that identify an entry in reports.
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
    /// Parses a set. If some keys are unusable, the others still work.
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

    /// The keys with this `kid`. There may be several: RFC 7517 section 4.5 lets keys of different
    /// kinds share a name, and in practice others share one, too.
    pub fn named<'a>(&'a self, kid: &'a str) -> impl Iterator<Item = &'a VerifyingKey> {
        let start = self.names.partition_point(|(name, _)| &**name < kid);
        self.names[start..]
            .iter()
            .take_while(move |(name, _)| &**name == kid)
            .map(|(_, index)| &self.keys[*index].key)
    }

    /// The keys without a name. A token may mean one of them, whatever name it gives.
    pub fn nameless(&self) -> impl Iterator<Item = &VerifyingKey> {
        self.nameless.iter().map(|index| &self.keys[*index].key)
    }

    /// All keys, for a token that names none.
    pub fn keys(&self) -> impl Iterator<Item = &VerifyingKey> {
        self.keys.iter().filter(|known| !known.is_covered).map(|known| &known.key)
    }

    /// The usable and unusable keys of the set.
    pub const fn contents(&self) -> &KeySetContents {
        &self.contents
    }

    /// The maximum number of keys that a token of this kind can be tried with, if it names a key,
    /// and if it names none.
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

/// The maximum number of keys of a set that a token can be tried with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MostTrials {
    /// If the token names a key.
    pub named: usize,
    /// If the token names no key.
    pub unnamed: usize,
}

impl MostTrials {
    /// The larger value of each field.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { named: self.named.max(other.named), unnamed: self.unnamed.max(other.unnamed) }
    }
}

#[derive(Default)]
struct Building {
    keys: Vec<VerifyingKey>,
    /// By name; keys without one are under the empty name, which no key has.
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
        // If the same key is also there without a limit on its algorithm, it would be tried twice.
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

/// Why an entry is unusable.
#[derive(Debug, thiserror::Error)]
enum EntryFault {
    #[error("not a JWK: {0}")]
    NotAJwk(#[from] serde_json::Error),
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The key of an entry, with its name. An empty name counts as none.
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

/// The fault and its causes, without the position in the entry: nobody sees the entry as it is
/// parsed here.
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

/// `text` for display: short, and on one line.
fn shown(text: &str, characters_max: usize) -> String {
    let is_long = text.chars().nth(characters_max).is_some();
    let printable = |character: char| {
        if character.is_control() { char::REPLACEMENT_CHARACTER } else { character }
    };
    text.chars().take(characters_max).map(printable).chain(is_long.then_some('\u{2026}')).collect()
}

/// Counts brackets outside of strings; the parser checks whether the text is JSON.
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
