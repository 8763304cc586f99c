//! Private keys: reading, generating, writing and signing. The service itself never holds a
//! client's.

use std::fmt;

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::{KeyPairComponents, KeySize, PublicKeyComponents},
    signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair},
};
use num_bigint::BigUint;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{
    KeyError, PublicKey,
    encoding::{
        foreign_format, kind_of_oid, pem_blocks, plain_text, to_pem, without_leading_zeros,
    },
    encrypted,
    openssh::{self, OPENSSH},
};
use crate::domain::algorithm::{Algorithm, KeyFamily};

const ACCEPTED: &str = "PEM (BEGIN PRIVATE KEY, BEGIN ENCRYPTED PRIVATE KEY, BEGIN RSA PRIVATE KEY, BEGIN EC PRIVATE KEY) and \
                        OpenSSH (BEGIN OPENSSH PRIVATE KEY)";
const PKCS8: &str = "PKCS#8 private key";
/// OWASP's recommendation for PBKDF2 with HMAC-SHA-256 (2023).
const PBKDF2_ITERATIONS: u32 = 600_000;

/// A private key, with its public half.
pub struct PrivateKey {
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Ec(EcdsaKeyPair),
}

impl PrivateKey {
    /// Parses a private key: PKCS#8 (also encrypted), PKCS#1 or SEC1 in PEM, or OpenSSH's own
    /// format (also encrypted). A `passphrase` that is not needed is ignored.
    ///
    /// An encrypted key specifies how much work it takes to decrypt. If that exceeds the limits
    /// that [`KeyError::TooCostly`] names, the key is refused.
    pub fn parse(text: &str, passphrase: Option<&SecretString>) -> Result<Self, KeyError> {
        Self::parse_within(&Work::ACCEPTED, text, passphrase)
    }

    /// For fuzz targets, which cannot wait: refuses encrypted keys unless they take hardly any
    /// work.
    #[cfg(feature = "fuzzing")]
    #[doc(hidden)]
    pub fn parse_if_cheap(text: &str, passphrase: Option<&SecretString>) -> Result<Self, KeyError> {
        Self::parse_within(
            &Work { pbkdf2_iterations: 16, scrypt_bytes: 1 << 14, bcrypt_rounds: 1 },
            text,
            passphrase,
        )
    }

    fn parse_within(
        work: &Work,
        text: &str,
        passphrase: Option<&SecretString>,
    ) -> Result<Self, KeyError> {
        let text = plain_text(text);
        let blocks = pem_blocks(text)?;
        // There may be certificates and public keys before or after it, as in the output of
        // `openssl pkcs12 -nodes`.
        let mut private = blocks.iter().filter(|block| block.tag().ends_with("PRIVATE KEY"));
        let Some(block) = private.next() else {
            let is_public = |block: &pem::Pem| {
                matches!(block.tag(), "PUBLIC KEY" | "RSA PUBLIC KEY" | "CERTIFICATE")
            };
            return Err(match foreign_format(text) {
                Some(foreign) => foreign,
                None if blocks.iter().any(is_public) || PublicKey::parse(text).is_ok() => {
                    KeyError::PublicKeyGiven
                }
                None => KeyError::UnknownFormat { accepted: ACCEPTED },
            });
        };
        let others = private.count();
        if others > 0 {
            return Err(KeyError::SeveralKeys { count: others + 1 });
        }
        let der = Zeroizing::new(block.contents().to_vec());
        if block
            .headers()
            .iter()
            .any(|(name, value)| name == "Proc-Type" && value.contains("ENCRYPTED"))
        {
            return Err(KeyError::LegacyEncryption);
        }
        match block.tag() {
            "PRIVATE KEY" => Self::from_pkcs8(&der),
            "ENCRYPTED PRIVATE KEY" => Self::from_encrypted_pkcs8(work, &der, passphrase),
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(&der)
                .map_err(|error| refused_rsa(&der, &error))
                .and_then(Self::rsa),
            "EC PRIVATE KEY" => Self::from_sec1(&der),
            "OPENSSH PRIVATE KEY" => openssh::open(work, &der, passphrase)
                .and_then(|key| Self::from_openssh_pair(key.key_data())),
            "DSA PRIVATE KEY" => Err(KeyError::UnsupportedKind { found: "DSA".to_owned() }),
            _ => Err(KeyError::UnknownFormat { accepted: ACCEPTED }),
        }
    }

    /// Parses an unencrypted PKCS#8 `PrivateKeyInfo` in DER (RFC 5208, RFC 5958).
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let info = pkcs8::PrivateKeyInfo::try_from(der)
            .map_err(|error| KeyError::malformed(PKCS8, error))?;
        match info.algorithm.oid.to_string().as_str() {
            "1.2.840.113549.1.1.1" => RsaKeyPair::from_pkcs8(der)
                .map_err(|error| refused_rsa(info.private_key, &error))
                .and_then(Self::rsa),
            "1.3.101.112" => Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
                .map_err(|error| KeyError::Invalid {
                    family: KeyFamily::Ed25519,
                    reason: error.to_string(),
                })
                .and_then(|pair| Self::new(Pair::Ed25519(pair))),
            "1.2.840.10045.2.1" => Self::ec(|algorithm| EcdsaKeyPair::from_pkcs8(algorithm, der)),
            other => Err(KeyError::UnsupportedKind { found: kind_of_oid(other) }),
        }
    }

    /// Generates a key. `rsa_bits` is 2048, 3072, 4096 or 8192, and ignored for other kinds.
    pub fn generate(family: KeyFamily, rsa_bits: usize) -> Result<Self, KeyError> {
        let failed = |reason: String| KeyError::NotGenerated { family, reason };
        let pair = match family {
            KeyFamily::Rsa => {
                let size = match rsa_bits {
                    2048 => KeySize::Rsa2048,
                    3072 => KeySize::Rsa3072,
                    4096 => KeySize::Rsa4096,
                    8192 => KeySize::Rsa8192,
                    other => {
                        return Err(failed(format!(
                            "{other} is not a size that can be made; choose 2048, 3072, 4096 or 8192"
                        )));
                    }
                };
                RsaKeyPair::generate(size).map(Pair::Rsa)
            }
            KeyFamily::Ed25519 => Ed25519KeyPair::generate().map(Pair::Ed25519),
            KeyFamily::P256 => {
                EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING)
                    .map(Pair::Ec)
            }
            KeyFamily::P384 => {
                EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING)
                    .map(Pair::Ec)
            }
        };
        pair.map_err(|error| failed(error.to_string())).and_then(Self::new)
    }

    /// The public half of the key.
    pub const fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Signs `message`; `None` if `algorithm` does not fit this key.
    pub fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Option<Vec<u8>> {
        if algorithm.family() != self.public.family() {
            return None;
        }
        let rng = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(algorithm.rsa_encoding()?, &rng, message, &mut signature).ok()?;
                Some(signature)
            }
            Pair::Ed25519(pair) => Some(pair.sign(message).as_ref().to_vec()),
            Pair::Ec(pair) => Some(pair.sign(&rng, message).ok()?.as_ref().to_vec()),
        }
    }

    /// The key as unencrypted PKCS#8 in PEM.
    pub fn to_pem(&self) -> Result<SecretString, KeyError> {
        Ok(to_pem("PRIVATE KEY", &self.to_pkcs8()?).into())
    }

    /// The key as PKCS#8 in PEM, encrypted with PBES2 (PBKDF2 with HMAC-SHA-256, AES-256-CBC).
    /// Scrypt is not used because OpenSSL refuses its usual parameters.
    pub fn to_encrypted_pem(&self, passphrase: &SecretString) -> Result<SecretString, KeyError> {
        let der = self.to_pkcs8()?;
        let info = pkcs8::PrivateKeyInfo::try_from(der.as_slice())
            .map_err(|error| KeyError::malformed(PKCS8, error))?;
        let (mut salt, mut iv) = ([0; 16], [0; 16]);
        for random in [&mut salt, &mut iv] {
            aws_lc_rs::rand::fill(random).map_err(|error| self.invalid(error))?;
        }
        let parameters =
            pkcs8::pkcs5::pbes2::Parameters::pbkdf2_sha256_aes256cbc(PBKDF2_ITERATIONS, &salt, &iv)
                .map_err(|error| KeyError::malformed(PKCS8, error.to_string()))?;
        let encrypted = info
            .encrypt_with_params(parameters, passphrase.expose_secret())
            .map_err(|error| KeyError::malformed(PKCS8, error))?;
        Ok(to_pem("ENCRYPTED PRIVATE KEY", encrypted.as_bytes()).into())
    }

    fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        match &self.pair {
            Pair::Rsa(pair) => AsDer::<Pkcs8V1Der<'_>>::as_der(pair)
                .map(|der| Zeroizing::new(der.as_ref().to_vec())),
            Pair::Ed25519(pair) => {
                pair.to_pkcs8v1().map(|document| Zeroizing::new(document.as_ref().to_vec()))
            }
            Pair::Ec(pair) => {
                pair.to_pkcs8v1().map(|document| Zeroizing::new(document.as_ref().to_vec()))
            }
        }
        .map_err(|error| self.invalid(error))
    }

    fn invalid(&self, error: aws_lc_rs::error::Unspecified) -> KeyError {
        KeyError::Invalid { family: self.public.family(), reason: error.to_string() }
    }

    fn new(pair: Pair) -> Result<Self, KeyError> {
        let spki: Result<PublicKeyX509Der<'_>, _> = match &pair {
            Pair::Rsa(pair) => pair.public_key().as_der(),
            Pair::Ed25519(pair) => pair.public_key().as_der(),
            Pair::Ec(pair) => pair.public_key().as_der(),
        };
        let spki = spki.map_err(|error| KeyError::malformed("public half", error))?;
        Ok(Self { public: PublicKey::from_spki(spki.as_ref())?, pair })
    }

    fn rsa(pair: RsaKeyPair) -> Result<Self, KeyError> {
        Self::new(Pair::Rsa(pair))
    }

    /// Not every format names the curve, so all supported ones are tried.
    fn ec<E: fmt::Display>(
        load: impl Fn(&'static aws_lc_rs::signature::EcdsaSigningAlgorithm) -> Result<EcdsaKeyPair, E>,
    ) -> Result<Self, KeyError> {
        let p256 = load(&aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING);
        let pair = p256.or_else(|_| load(&aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING));
        let unsupported = |_| KeyError::UnsupportedKind {
            found: "an EC key on another curve than P-256 and P-384, or damaged".to_owned(),
        };
        Self::new(Pair::Ec(pair.map_err(unsupported)?))
    }

    fn from_sec1(der: &[u8]) -> Result<Self, KeyError> {
        Self::ec(|algorithm| EcdsaKeyPair::from_private_key_der(algorithm, der))
    }

    fn from_encrypted_pkcs8(
        work: &Work,
        der: &[u8],
        passphrase: Option<&SecretString>,
    ) -> Result<Self, KeyError> {
        let document = encrypted::open(work, der, passphrase)?;
        // The padding of garbage can be valid by chance.
        Self::from_pkcs8(&document).map_err(|error| match error {
            KeyError::Malformed { .. } => KeyError::WrongPassphrase,
            other => other,
        })
    }

    fn from_openssh_pair(pair: &ssh_key::private::KeypairData) -> Result<Self, KeyError> {
        use ssh_key::private::{EcdsaKeypair, KeypairData};

        let ec = |pair: &EcdsaKeypair| {
            Self::ec(|algorithm| {
                EcdsaKeyPair::from_private_key_and_public_key(
                    algorithm,
                    pair.private_key_bytes(),
                    pair.public_key_bytes(),
                )
            })
        };
        match pair {
            KeypairData::Rsa(pair) => Self::from_openssh_rsa(pair),
            KeypairData::Ed25519(pair) => {
                Ed25519KeyPair::from_seed_and_public_key(&pair.private.to_bytes(), &pair.public.0)
                    .map_err(|error| KeyError::Invalid {
                        family: KeyFamily::Ed25519,
                        reason: error.to_string(),
                    })
                    .and_then(|pair| Self::new(Pair::Ed25519(pair)))
            }
            KeypairData::Ecdsa(
                pair @ (EcdsaKeypair::NistP256 { .. } | EcdsaKeypair::NistP384 { .. }),
            ) => ec(pair),
            other => {
                let found = other.algorithm().map_or_else(
                    |_| "an unknown one".to_owned(),
                    |algorithm| algorithm.to_string(),
                );
                Err(KeyError::UnsupportedKind { found })
            }
        }
    }

    /// OpenSSH leaves out two of the numbers that RFC 8017 lists: the CRT exponents `d mod (p - 1)`
    /// and `d mod (q - 1)`.
    #[allow(clippy::many_single_char_names, reason = "the names of RFC 8017")]
    fn from_openssh_rsa(pair: &ssh_key::private::RsaKeypair) -> Result<Self, KeyError> {
        let number = |mpint: &ssh_key::Mpint| {
            let bytes = mpint
                .as_positive_bytes()
                .map(|bytes| Zeroizing::new(without_leading_zeros(bytes).to_vec()));
            bytes.ok_or_else(|| KeyError::malformed(OPENSSH, "a negative number"))
        };
        let (n, e, d) =
            (number(&pair.public.n)?, number(&pair.public.e)?, number(&pair.private.d)?);
        let (p, q, q_inverse) =
            (number(&pair.private.p)?, number(&pair.private.q)?, number(&pair.private.iqmp)?);
        let crt_exponent = |prime: &[u8]| {
            let below = BigUint::from_bytes_be(prime) - 1_u8;
            Zeroizing::new((BigUint::from_bytes_be(&d) % below).to_bytes_be())
        };
        if p.is_empty() || q.is_empty() || *p == [1] || *q == [1] {
            return Err(KeyError::malformed(OPENSSH, "a prime is missing"));
        }
        super::encoding::Numbers::rsa(&n, &e)?;
        let components = KeyPairComponents {
            public_key: PublicKeyComponents { n: n.as_slice(), e: e.as_slice() },
            d: d.as_slice(),
            dP: &crt_exponent(&p),
            dQ: &crt_exponent(&q),
            p: p.as_slice(),
            q: q.as_slice(),
            qInv: q_inverse.as_slice(),
        };
        RsaKeyPair::from_components(&components)
            .map_err(|error| KeyError::Invalid {
                family: KeyFamily::Rsa,
                reason: error.to_string(),
            })
            .and_then(Self::rsa)
    }
}

/// The most work that decrypting a key may take. The file specifies the work, so without a limit it
/// could keep the program busy for days, or use all memory.
pub(super) struct Work {
    pub(super) pbkdf2_iterations: u32,
    /// Memory times parallelism, which also determines the time.
    pub(super) scrypt_bytes: u64,
    pub(super) bcrypt_rounds: u32,
}

impl Work {
    /// Each limit is several times what tools choose and guides recommend, and takes seconds.
    pub(super) const ACCEPTED: Self =
        Self { pbkdf2_iterations: 5_000_000, scrypt_bytes: 1 << 30, bcrypt_rounds: 1024 };

    pub(super) fn covers_pkcs8(
        &self,
        scheme: &pkcs8::pkcs5::EncryptionScheme<'_>,
    ) -> Result<(), KeyError> {
        use pkcs8::pkcs5::{EncryptionScheme, pbes2::Kdf};

        // The library decrypts no other scheme.
        let EncryptionScheme::Pbes2(parameters) = scheme else { return Ok(()) };
        match &parameters.kdf {
            Kdf::Pbkdf2(kdf) => self.covers_iterations("PBKDF2", kdf.iteration_count),
            Kdf::Scrypt(kdf) if !kdf.cost_parameter.is_power_of_two() => {
                Err(KeyError::malformed(PKCS8, "the cost of scrypt is not a power of two"))
            }
            Kdf::Scrypt(kdf) => {
                let bytes = [u64::from(kdf.block_size), u64::from(kdf.parallelization), 128]
                    .into_iter()
                    .fold(kdf.cost_parameter, u64::saturating_mul);
                if bytes > self.scrypt_bytes {
                    let accepted = format!("{} bytes", self.scrypt_bytes);
                    return Err(KeyError::TooCostly {
                        found: format!("scrypt with {bytes} bytes"),
                        accepted,
                    });
                }
                Ok(())
            }
            // If the library supports more functions later, they are refused until their cost is
            // known here.
            other => Err(KeyError::malformed(
                PKCS8,
                format!("an unknown derivation of keys ({})", other.oid()),
            )),
        }
    }

    pub(super) fn covers_iterations(&self, of: &str, iterations: u32) -> Result<(), KeyError> {
        if iterations > self.pbkdf2_iterations {
            let accepted = format!("{}", self.pbkdf2_iterations);
            return Err(KeyError::TooCostly {
                found: format!("{of} with {iterations} iterations"),
                accepted,
            });
        }
        Ok(())
    }

    pub(super) fn covers_openssh(&self, kdf: &ssh_key::Kdf) -> Result<(), KeyError> {
        match kdf {
            ssh_key::Kdf::Bcrypt { rounds, .. } if *rounds > self.bcrypt_rounds => {
                Err(KeyError::TooCostly {
                    found: format!("bcrypt with {rounds} rounds"),
                    accepted: format!("{}", self.bcrypt_rounds),
                })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({} {})", self.public.family(), self.public.fingerprint())
    }
}

/// Why the library refused an RSA key: its size, if that is the reason.
fn refused_rsa(pkcs1: &[u8], error: &aws_lc_rs::error::KeyRejected) -> KeyError {
    let invalid = || KeyError::Invalid { family: KeyFamily::Rsa, reason: error.to_string() };
    let Ok(key) = <pkcs1::RsaPrivateKey<'_> as der::Decode>::from_der(pkcs1) else {
        return invalid();
    };
    match super::encoding::Numbers::rsa(key.modulus.as_bytes(), key.public_exponent.as_bytes()) {
        Err(size) => size,
        Ok(_) => invalid(),
    }
}
