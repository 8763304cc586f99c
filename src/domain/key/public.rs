//! Public keys.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, general_purpose::NO_PAD},
    prelude::BASE64_URL_SAFE_NO_PAD,
};
use der::Decode;
use serde::{Deserialize, Serialize};

use super::{
    Fingerprint, KeyError, VerifyingKey,
    encoding::{
        Numbers, bit_length, coordinate_length, foreign_format, kind_of_openssh, pem_blocks,
        plain_text, to_pem,
    },
};
use crate::domain::{
    algorithm::{Algorithm, KeyFamily},
    json,
};

const ACCEPTED: &str = "PEM (BEGIN PUBLIC KEY, BEGIN RSA PUBLIC KEY, BEGIN CERTIFICATE), OpenSSH (ssh-rsa, ssh-ed25519, ecdsa-sha2-*) and JWK";

/// Base64url without padding (RFC 7518 section 2), or with it, as some libraries write members of
/// JWKs.
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    NO_PAD.with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The values of a JWK's `use` for verifying signatures: the one of RFC 7517, and the one for
/// JWT-SVIDs in SPIFFE trust bundles.
const USES: [&str; 2] = ["sig", "jwt-svid"];

/// A public key of an accepted kind and size, in its canonical encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    numbers: Numbers,
    spki: Box<[u8]>,
    fingerprint: Fingerprint,
}

/// A parsed public key, with additional data of its format.
#[derive(Clone, Debug)]
pub struct ParsedPublic {
    /// The public key.
    pub key: PublicKey,
    /// The trailing comment of an OpenSSH key, if any.
    pub comment: Option<String>,
    /// The only algorithm that the key may be used with, if a JWK's `alg` says so.
    pub only: Option<Algorithm>,
}

impl PublicKey {
    /// Parses a public key in any accepted format: PEM (`PUBLIC KEY`, `RSA PUBLIC KEY`,
    /// `CERTIFICATE`), OpenSSH one-line, JWK.
    ///
    /// Only the key of a certificate is used; its dates and issuer are ignored. In a chain, the
    /// first certificate counts.
    pub fn parse(text: &str) -> Result<ParsedPublic, KeyError> {
        let text = plain_text(text);
        let blocks = pem_blocks(text)?;
        if !blocks.is_empty() {
            return Self::from_pem_blocks(&blocks).map(ParsedPublic::alone);
        }
        if text.starts_with('{') {
            let jwk =
                json::object(text.as_bytes()).map_err(|error| KeyError::malformed("JWK", error))?;
            return ParsedPublic::from_jwk(&jwk);
        }
        Self::from_openssh(text)
    }

    /// Parses a `SubjectPublicKeyInfo` in DER.
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        Numbers::from_spki(der).and_then(Self::new)
    }

    /// The key in a JSON Web Key (RFC 7517) of type RSA, OKP or EC, whatever its intended use. A
    /// JWK with private members is refused.
    fn from_jwk(jwk: &Jwk) -> Result<Self, KeyError> {
        if jwk.d.is_some() {
            return Err(KeyError::PrivateKeyGiven);
        }
        let member = |name: &'static str, value: &Option<String>| {
            let text = value
                .as_deref()
                .ok_or_else(|| KeyError::malformed("JWK", format!("member {name:?} is missing")))?;
            BASE64_URL
                .decode(text)
                .map_err(|error| KeyError::malformed("JWK", format!("member {name:?}: {error}")))
        };
        let curve = jwk.crv.as_deref().unwrap_or_default();
        let ec = |family| {
            let (x, y) = (member("x", &jwk.x)?, member("y", &jwk.y)?);
            if x.len() != coordinate_length(family) || y.len() != coordinate_length(family) {
                return Err(KeyError::Invalid {
                    family,
                    reason: "a coordinate has the wrong length".to_owned(),
                });
            }
            Numbers::ec(family, &[&[4], &*x, &*y].concat())
        };
        let numbers = match (jwk.kty.as_str(), curve) {
            ("RSA", _) => Numbers::rsa(&member("n", &jwk.n)?, &member("e", &jwk.e)?),
            ("OKP", "Ed25519") => Numbers::ed25519(&member("x", &jwk.x)?),
            ("EC", "P-256") => ec(KeyFamily::P256),
            ("EC", "P-384") => ec(KeyFamily::P384),
            (kty, curve) => Err(KeyError::UnsupportedKind {
                found: format!("JWK of type {kty:?}, curve {curve:?}"),
            }),
        }?;
        Self::new(numbers)
    }

    /// The key as a JSON Web Key for verifying signatures, with `kid` and the preferred `alg`.
    pub fn to_jwk(&self) -> Jwk {
        let encode = |bytes: &[u8]| Some(BASE64_URL_SAFE_NO_PAD.encode(bytes));
        let common = Jwk {
            r#use: Some("sig".to_owned()),
            alg: Some(self.family().algorithms()[0].name().to_owned()),
            kid: Some(self.fingerprint.to_string()),
            ..Jwk::default()
        };
        match &self.numbers {
            Numbers::Rsa { modulus, exponent } => {
                Jwk { kty: "RSA".to_owned(), n: encode(modulus), e: encode(exponent), ..common }
            }
            Numbers::Ed25519(point) => Jwk {
                kty: "OKP".to_owned(),
                crv: Some("Ed25519".to_owned()),
                x: encode(point),
                ..common
            },
            Numbers::Ec { family, point } => {
                let (x, y) = point[1..].split_at(coordinate_length(*family));
                let crv = if *family == KeyFamily::P384 { "P-384" } else { "P-256" };
                Jwk {
                    kty: "EC".to_owned(),
                    crv: Some(crv.to_owned()),
                    x: encode(x),
                    y: encode(y),
                    ..common
                }
            }
        }
    }

    /// The canonical `SubjectPublicKeyInfo` as PEM: 64-column lines, final newline.
    pub fn to_pem(&self) -> String {
        to_pem("PUBLIC KEY", &self.spki)
    }

    /// The canonical `SubjectPublicKeyInfo` as DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The kind of the key.
    pub const fn family(&self) -> KeyFamily {
        self.numbers.family()
    }

    /// Size in bits: of the modulus for RSA, of the field for the others.
    pub fn bits(&self) -> usize {
        match &self.numbers {
            Numbers::Rsa { modulus, .. } => bit_length(modulus),
            Numbers::Ed25519(_) => 256,
            Numbers::Ec { family, .. } => coordinate_length(*family) * 8,
        }
    }

    /// The key's id, also used as a token's `kid`.
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(super) fn from_rsa_numbers(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        Numbers::rsa(modulus, exponent).and_then(Self::new)
    }

    /// Big-endian modulus of an RSA key; `None` for other kinds.
    pub(super) fn modulus(&self) -> Option<&[u8]> {
        match &self.numbers {
            Numbers::Rsa { modulus, .. } => Some(modulus),
            Numbers::Ed25519(_) | Numbers::Ec { .. } => None,
        }
    }

    /// An Ed25519 key as RFC 8032 encodes it; `None` for other kinds.
    pub(super) fn ed25519(&self) -> Option<&[u8; 32]> {
        match &self.numbers {
            Numbers::Ed25519(point) => Some(point),
            Numbers::Rsa { .. } | Numbers::Ec { .. } => None,
        }
    }

    /// Accepts `numbers` only if the cryptographic library does: the point is on the curve, modulus
    /// and exponent are valid.
    fn new(numbers: Numbers) -> Result<Self, KeyError> {
        let spki = numbers.to_spki()?.into_boxed_slice();
        let family = numbers.family();
        aws_lc_rs::signature::ParsedPublicKey::new(family.algorithms()[0].verification(), &spki)
            .map_err(|rejected| KeyError::Invalid { family, reason: rejected.to_string() })?;
        let fingerprint = Fingerprint::of_pem(&to_pem("PUBLIC KEY", &spki));
        Ok(Self { numbers, spki, fingerprint })
    }

    /// The file must not contain another key: it would be a guess which one is meant.
    fn from_pem_blocks(blocks: &[pem::Pem]) -> Result<Self, KeyError> {
        // At any position: the file would be stored with the private key in it.
        if blocks.iter().any(|block| block.tag().ends_with("PRIVATE KEY")) {
            return Err(KeyError::PrivateKeyGiven);
        }
        let is_known = |block: &&pem::Pem| {
            matches!(block.tag(), "PUBLIC KEY" | "RSA PUBLIC KEY" | "CERTIFICATE")
        };
        let known: Vec<&pem::Pem> = blocks.iter().filter(is_known).collect();
        match known[..] {
            [] => Err(KeyError::UnknownFormat { accepted: ACCEPTED }),
            [one] => Self::from_pem_block(one),
            [first, ref others @ ..] => {
                let key = Self::from_pem_block(first);
                if known.iter().all(|block| block.tag() == "CERTIFICATE") {
                    check_chain(&known)?;
                } else if !others.iter().all(|other| {
                    Self::from_pem_block(other).is_ok_and(|other| Some(&other) == key.as_ref().ok())
                }) {
                    return Err(KeyError::SeveralKeys { count: known.len() });
                }
                key
            }
        }
    }

    fn from_pem_block(block: &pem::Pem) -> Result<Self, KeyError> {
        match block.tag() {
            "PUBLIC KEY" => Self::from_spki(block.contents()),
            "RSA PUBLIC KEY" => Numbers::from_pkcs1(block.contents()).and_then(Self::new),
            _ => {
                let certificate = certificate(block)?;
                let spki =
                    der::Encode::to_der(&certificate.tbs_certificate.subject_public_key_info)
                        .map_err(|error| KeyError::malformed(X509, error))?;
                Self::from_spki(&spki)
            }
        }
    }

    /// Parses one key as OpenSSH writes it, or an `authorized_keys` file with one key.
    fn from_openssh(text: &str) -> Result<ParsedPublic, KeyError> {
        use ssh_key::public::{EcdsaPublicKey, KeyData};

        let malformed = |error: ssh_key::Error| KeyError::malformed(OPENSSH, error);
        let line = one_openssh_line(text)?;
        let kind = line.split([' ', '\t']).next().unwrap_or_default();
        if kind.starts_with("sk-") || kind.contains("-cert-v0") {
            return Err(KeyError::UnsupportedKind { found: kind_of_openssh(kind) });
        }
        let parsed = ssh_key::PublicKey::from_openssh(line).map_err(malformed)?;
        let numbers = match parsed.key_data() {
            KeyData::Rsa(key) => Numbers::rsa(
                key.n
                    .as_positive_bytes()
                    .ok_or_else(|| malformed(ssh_key::Error::FormatEncoding))?,
                key.e
                    .as_positive_bytes()
                    .ok_or_else(|| malformed(ssh_key::Error::FormatEncoding))?,
            ),
            KeyData::Ed25519(key) => Numbers::ed25519(&key.0),
            KeyData::Ecdsa(key @ EcdsaPublicKey::NistP256(_)) => {
                Numbers::ec(KeyFamily::P256, key.as_sec1_bytes())
            }
            KeyData::Ecdsa(key @ EcdsaPublicKey::NistP384(_)) => {
                Numbers::ec(KeyFamily::P384, key.as_sec1_bytes())
            }
            _ => Err(KeyError::UnsupportedKind { found: parsed.algorithm().to_string() }),
        }?;
        let comment = (!parsed.comment().is_empty()).then(|| parsed.comment().to_owned());
        Ok(ParsedPublic { key: Self::new(numbers)?, comment, only: None })
    }
}

const X509: &str = "X.509 certificate";
const OPENSSH: &str = "OpenSSH public key";

fn certificate(block: &pem::Pem) -> Result<x509_cert::Certificate, KeyError> {
    x509_cert::Certificate::from_der(block.contents())
        .map_err(|error| KeyError::malformed(X509, error))
}

/// Checks that `blocks` are the certificate of one key, followed by those of authorities.
fn check_chain(blocks: &[&pem::Pem]) -> Result<(), KeyError> {
    let chain = blocks.iter().map(|block| certificate(block)).collect::<Result<Vec<_>, _>>()?;
    let Some((first, others)) = chain.split_first() else { return Ok(()) };
    if is_authority(first) {
        let subject = first.tbs_certificate.subject.to_string();
        return Err(KeyError::AuthorityFirst { count: chain.len(), subject });
    }
    // Authorities from before version 3 are not marked as such.
    let issued_any = |other: &x509_cert::Certificate| {
        chain.iter().any(|issued| {
            issued.tbs_certificate.issuer == other.tbs_certificate.subject && issued != other
        })
    };
    let strangers = others
        .iter()
        .filter(|other| !is_authority(other) && !issued_any(other) && *other != first)
        .count();
    if strangers > 0 { Err(KeyError::SeveralKeys { count: strangers + 1 }) } else { Ok(()) }
}

fn is_authority(certificate: &x509_cert::Certificate) -> bool {
    use x509_cert::ext::pkix::BasicConstraints;

    matches!(certificate.tbs_certificate.get::<BasicConstraints>(), Ok(Some((_, constraints))) if constraints.ca)
}

/// The only line with a key, in a file as OpenSSH reads it: with comments, empty lines, and keys
/// after options.
fn one_openssh_line(text: &str) -> Result<&str, KeyError> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let keys: Vec<(&str, &str)> = lines.iter().filter_map(|line| behind_options(line)).collect();
    match keys[..] {
        [] => Err(foreign_format(text).unwrap_or(KeyError::UnknownFormat { accepted: ACCEPTED })),
        [("", _)] if lines.len() > 1 => {
            Err(KeyError::malformed(OPENSSH, "it is broken over several lines"))
        }
        [("", key)] => Ok(key),
        [(options, key)] => {
            let kind = key.split(' ').next().unwrap_or_default().to_owned();
            Err(KeyError::OptionsBeforeKey { options: options.to_owned(), kind })
        }
        _ => Err(KeyError::SeveralKeys { count: keys.len() }),
    }
}

/// Splits `line` in two: the options of an `authorized_keys` line, which are usually empty, and the
/// key.
fn behind_options(line: &str) -> Option<(&str, &str)> {
    let is_kind =
        |word: &str| ["ssh-", "ecdsa-sha2-", "sk-"].iter().any(|prefix| word.starts_with(prefix));
    if is_kind(line) {
        return Some(("", line));
    }
    // Each key begins with the length of its kind. This is a small number, so its first digits in
    // base64 are always the same.
    let end = line.find(" AAAA")?;
    let start = line[..end].rfind([' ', '\t', ','])? + 1;
    is_kind(&line[start..]).then(|| (line[..start].trim_end(), &line[start..]))
}

impl ParsedPublic {
    /// Parses a JSON Web Key. Its intended use is binding: if it does not allow verifying, the key
    /// is refused; if it names an algorithm, the key is used with that one only.
    pub fn from_jwk(jwk: &Jwk) -> Result<Self, KeyError> {
        let key = PublicKey::from_jwk(jwk)?;
        if let Some(other) = jwk.r#use.as_deref().filter(|found| !USES.contains(found)) {
            return Err(KeyError::NotForSignatures {
                member: "use",
                value: format!("{other:?}"),
                expected: "\"sig\" or \"jwt-svid\"",
            });
        }
        if let Some(others) = jwk
            .key_ops
            .as_ref()
            .filter(|found| !found.iter().any(|operation| operation == "verify"))
        {
            return Err(KeyError::NotForSignatures {
                member: "key_ops",
                value: format!("{others:?}"),
                expected: "one with \"verify\"",
            });
        }
        let only =
            jwk.alg.as_deref().map(|name| algorithm_of_jwk(name, key.family())).transpose()?;
        Ok(Self { key, comment: None, only })
    }

    /// The key prepared to verify signatures, limited to `only` if that is set.
    pub fn verifying_key(&self) -> VerifyingKey {
        let key = VerifyingKey::new(&self.key);
        match self.only {
            Some(algorithm) => key.only_for(algorithm),
            None => key,
        }
    }

    fn alone(key: PublicKey) -> Self {
        Self { key, comment: None, only: None }
    }
}

fn algorithm_of_jwk(name: &str, family: KeyFamily) -> Result<Algorithm, KeyError> {
    let found: Option<Algorithm> = name.parse().ok();
    found.filter(|algorithm| family.algorithms().contains(algorithm)).ok_or_else(|| {
        let expected: Vec<&str> =
            family.algorithms().iter().map(|algorithm| algorithm.name()).collect();
        KeyError::AlgorithmOfJwk { name: name.to_owned(), family, expected: expected.join(", ") }
    })
}

/// A JSON Web Key (RFC 7517, RFC 7518 section 6, RFC 8037). Members that we do not use are dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the members are RFC 7517's and RFC 7518's")]
pub struct Jwk {
    pub kty: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#use: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_ops: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// Private: read only so that a private key can be refused, never written. Null counts as
    /// missing.
    #[serde(skip_serializing, default, deserialize_with = "presence")]
    pub d: Option<()>,
}

fn presence<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<()>, D::Error> {
    Ok(Option::<serde::de::IgnoredAny>::deserialize(deserializer)?.map(|_| ()))
}
