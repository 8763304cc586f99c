//! The underlying encodings: PEM armour and `SubjectPublicKeyInfo` (RFC 5280, RFC 8410, RFC 5480,
//! RFC 8017).

use der::{
    Decode, Encode,
    asn1::{AnyRef, BitStringRef, ObjectIdentifier, UintRef},
};
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

use super::{KeyError, RSA_BITS_MAX, RSA_BITS_MIN, roca};
use crate::domain::algorithm::KeyFamily;

const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// Maximum length of an RSA public exponent, in bits. Those in use have 2 or 17.
const EXPONENT_BITS_MAX: usize = 33;

const SPKI: &str = "SubjectPublicKeyInfo";

/// The numbers of a public key. Size and format are checked; a cryptographic library has not
/// checked them yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    Ed25519([u8; 32]),
    /// An uncompressed point, `0x04 || x || y`.
    Ec {
        family: KeyFamily,
        point: Vec<u8>,
    },
}

impl Numbers {
    pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        let (modulus, exponent) = (without_leading_zeros(modulus), without_leading_zeros(exponent));
        match bit_length(modulus) {
            bits if bits < RSA_BITS_MIN => Err(KeyError::RsaTooSmall { bits }),
            bits if bits > RSA_BITS_MAX => Err(KeyError::RsaTooLarge { bits }),
            _ if roca::is_of_the_broken_generator(modulus) => Err(KeyError::RsaOfBrokenGenerator),
            _ => Self::check_exponent(exponent)
                .map(|()| Self::Rsa { modulus: modulus.to_vec(), exponent: exponent.to_vec() })
                .map_err(|reason| KeyError::Invalid { family: KeyFamily::Rsa, reason }),
        }
    }

    /// The cryptographic library accepts exponents up to [`EXPONENT_BITS_MAX`] and does not say
    /// what is wrong with others.
    fn check_exponent(exponent: &[u8]) -> Result<(), String> {
        match (bit_length(exponent), exponent.last()) {
            (_, None) => Err("its public exponent is 0".to_owned()),
            (bits, _) if bits > EXPONENT_BITS_MAX => Err(format!(
                "its public exponent has {bits} bits, and at most {EXPONENT_BITS_MAX} are taken: each verification would be slow; \
                 make a new key with 65537, which is what tools take by themselves"
            )),
            (1, _) => Err("its public exponent is 1: anybody could sign".to_owned()),
            (_, Some(last)) if last % 2 == 0 => Err("its public exponent is even".to_owned()),
            _ => Ok(()),
        }
    }

    pub(super) fn ec(family: KeyFamily, point: &[u8]) -> Result<Self, KeyError> {
        let length = 1 + 2 * coordinate_length(family);
        if point.len() == length && point[0] == 4 {
            return Ok(Self::Ec { family, point: point.to_vec() });
        }
        let reason = match point.first() {
            Some(2 | 3) => {
                "its point is compressed; write it with `openssl ec -pubin -conv_form uncompressed`"
                    .to_owned()
            }
            _ => format!("its point is not {length} bytes long and uncompressed"),
        };
        Err(KeyError::Invalid { family, reason })
    }

    pub(super) fn ed25519(point: &[u8]) -> Result<Self, KeyError> {
        let reason = || format!("it is {} bytes long instead of 32", point.len());
        point
            .try_into()
            .map(Self::Ed25519)
            .map_err(|_| KeyError::Invalid { family: KeyFamily::Ed25519, reason: reason() })
    }

    /// Parses an `RSAPublicKey` (RFC 8017), the content of a `BEGIN RSA PUBLIC KEY` block.
    pub(super) fn from_pkcs1(der: &[u8]) -> Result<Self, KeyError> {
        let key = pkcs1::RsaPublicKey::from_der(der)
            .map_err(|error| KeyError::malformed("PKCS#1 RSA public key", error))?;
        Self::rsa(key.modulus.as_bytes(), key.public_exponent.as_bytes())
    }

    pub(super) fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let spki = SubjectPublicKeyInfoRef::from_der(der)
            .map_err(|error| KeyError::malformed(SPKI, error))?;
        let bits = spki
            .subject_public_key
            .as_bytes()
            .ok_or_else(|| KeyError::malformed(SPKI, "unused bits in the key"))?;
        match spki.algorithm.oid {
            RSA_ENCRYPTION => Self::from_pkcs1(bits),
            ED25519 => Self::ed25519(bits),
            EC_PUBLIC_KEY => Self::ec(curve(spki.algorithm)?, bits),
            other => Err(KeyError::UnsupportedKind { found: kind_of_oid(&other.to_string()) }),
        }
    }

    /// The canonical DER encoding of these numbers.
    pub(super) fn to_spki(&self) -> Result<Vec<u8>, KeyError> {
        self.encode().map_err(|error| KeyError::malformed(SPKI, error))
    }

    fn encode(&self) -> der::Result<Vec<u8>> {
        let spki = |oid, parameters, bits: &[u8]| {
            let algorithm = AlgorithmIdentifierRef { oid, parameters };
            SubjectPublicKeyInfoRef {
                algorithm,
                subject_public_key: BitStringRef::from_bytes(bits)?,
            }
            .to_der()
        };
        match self {
            Self::Rsa { modulus, exponent } => {
                let key = pkcs1::RsaPublicKey {
                    modulus: UintRef::new(modulus)?,
                    public_exponent: UintRef::new(exponent)?,
                };
                spki(RSA_ENCRYPTION, Some(AnyRef::NULL), &key.to_der()?)
            }
            Self::Ed25519(point) => spki(ED25519, None, point),
            Self::Ec { family, point } => {
                let curve = if *family == KeyFamily::P384 { P384 } else { P256 };
                spki(EC_PUBLIC_KEY, Some(AnyRef::from(&curve)), point)
            }
        }
    }

    pub(super) const fn family(&self) -> KeyFamily {
        match self {
            Self::Rsa { .. } => KeyFamily::Rsa,
            Self::Ed25519(_) => KeyFamily::Ed25519,
            Self::Ec { family, .. } => *family,
        }
    }
}

fn curve(algorithm: AlgorithmIdentifierRef<'_>) -> Result<KeyFamily, KeyError> {
    match algorithm.parameters_oid() {
        Ok(P256) => Ok(KeyFamily::P256),
        Ok(P384) => Ok(KeyFamily::P384),
        Ok(other) => Err(KeyError::UnsupportedKind { found: kind_of_oid(&other.to_string()) }),
        Err(_) => {
            Err(KeyError::UnsupportedKind { found: "EC curve given by its parameters".to_owned() })
        }
    }
}

/// Length of one coordinate of a point on the curve of `family`, in bytes.
pub(super) const fn coordinate_length(family: KeyFamily) -> usize {
    match family {
        KeyFamily::P384 => 48,
        KeyFamily::P256 | KeyFamily::Rsa | KeyFamily::Ed25519 => 32,
    }
}

pub(super) fn bit_length(big_endian: &[u8]) -> usize {
    let significant = without_leading_zeros(big_endian);
    significant.first().map_or(0, |first| significant.len() * 8 - first.leading_zeros() as usize)
}

pub(super) fn without_leading_zeros(big_endian: &[u8]) -> &[u8] {
    let zeros = big_endian.iter().take_while(|byte| **byte == 0).count();
    &big_endian[zeros..]
}

/// `der` as PEM with 64-column lines, a final newline and Unix line endings.
pub(super) fn to_pem(label: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF).set_line_wrap(64);
    pem::encode_config(&pem::Pem::new(label, der), config)
}

/// `text` without the white space and byte order mark that editors and shells add.
pub(super) fn plain_text(text: &str) -> &str {
    text.trim_start_matches('\u{feff}').trim()
}

/// The PEM blocks of `text`, except for EC parameters, which OpenSSL writes in front of an EC
/// private key. Text between blocks is ignored, such as the attributes that `openssl pkcs12`
/// prints.
pub(super) fn pem_blocks(text: &str) -> Result<Vec<pem::Pem>, KeyError> {
    if !text.contains("-----BEGIN ") {
        return Ok(Vec::new());
    }
    let mut blocks = pem::parse_many(text).map_err(|error| KeyError::malformed("PEM", error))?;
    blocks.retain(|block| block.tag() != "EC PARAMETERS");
    Ok(blocks)
}

/// Recognises unsupported formats of other tools by their first characters.
pub(super) fn foreign_format(text: &str) -> Option<KeyError> {
    let (found, command) = if text.starts_with("PuTTY-User-Key-File-") {
        (
            "PuTTY's own format (.ppk)",
            "puttygen FILE -O private-openssh-new -o NEW` or, for the public key, `puttygen FILE -L -o NEW",
        )
    } else if text.starts_with("---- BEGIN SSH2 PUBLIC KEY ----") {
        ("the format of RFC 4716", "ssh-keygen -i -f FILE > NEW")
    } else {
        return None;
    };
    Some(KeyError::Convert { found: found.to_owned(), command })
}

/// The name for a kind of key that PKCS#8 or SPKI identifies by an OID.
pub(super) fn kind_of_oid(number: &str) -> String {
    let name = match number {
        "1.2.840.113549.1.1.10" => {
            "RSASSA-PSS, which is RSA bound to PSS; a plain RSA key signs PS256, PS384 and PS512, too"
        }
        "1.2.840.113549.1.1.7" => "RSAES-OAEP, for encryption",
        "1.2.840.10040.4.1" => "DSA",
        "1.2.840.113549.1.3.1" | "1.2.840.10046.2.1" => "Diffie-Hellman",
        "1.3.101.110" => "X25519, for key agreement",
        "1.3.101.111" => "X448, for key agreement",
        "1.3.101.113" => "Ed448",
        "1.3.132.0.35" => "EC P-521",
        "1.3.132.0.10" => "EC secp256k1",
        "2.16.840.1.101.3.4.3.17" | "2.16.840.1.101.3.4.3.18" | "2.16.840.1.101.3.4.3.19" => {
            "ML-DSA"
        }
        _ => return number.to_owned(),
    };
    format!("{name}; {number}")
}

/// The name for a kind of key that OpenSSH identifies by its own name.
pub(super) fn kind_of_openssh(name: &str) -> String {
    let why = if name.contains("-cert-v0") {
        "a certificate; give the public key that it was made from"
    } else if name.starts_with("sk-") {
        "of a security key, whose signatures cover more than a token and fit no JWS algorithm"
    } else {
        return name.to_owned();
    };
    format!("{name}, {why}")
}
