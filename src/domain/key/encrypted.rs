//! Encrypted PKCS#8 (RFC 5958 section 3): which schemes are supported, and the names of the others.
//!
//! The parameters are parsed here and not by the library: it requires a NULL where RFC 8018 has no
//! parameters, and `PyCryptodome` leaves it out. The library also does not check the length of an
//! initialisation vector, so it is checked here first.

use der::{
    Decode, Reader,
    asn1::{AnyRef, ObjectIdentifier, OctetStringRef},
};
use pkcs8::pkcs5::{self, EncryptionScheme, pbes2};
use secrecy::{ExposeSecret, SecretString};
use spki::AlgorithmIdentifierRef;
use zeroize::Zeroizing;

use super::{KeyError, private::Work};

const ENCRYPTED_PKCS8: &str = "encrypted PKCS#8 private key";
const PBES2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.13");
const DES_EDE3_CBC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.3.7");
const PBE_SHA1_3DES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.1.3");
const PBE_SHA1_2DES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.1.4");

/// Decrypts an `EncryptedPrivateKeyInfo` to the `PrivateKeyInfo` in it, both as DER.
///
/// A wrong passphrase shows as invalid padding, or occasionally as a result that is not a key.
pub(super) fn open(
    work: &Work,
    der: &[u8],
    passphrase: Option<&SecretString>,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let (algorithm, ciphertext) = AnyRef::from_der(der)
        .and_then(|info| {
            info.sequence(|fields| {
                Ok((
                    AlgorithmIdentifierRef::decode(fields)?,
                    OctetStringRef::decode(fields)?.as_bytes(),
                ))
            })
        })
        .map_err(malformed)?;
    match algorithm.oid {
        PBES2 => {
            let scheme = EncryptionScheme::Pbes2(pbes2_parameters(algorithm)?);
            let passphrase = passphrase.ok_or(KeyError::PassphraseMissing)?;
            work.covers_pkcs8(&scheme)?;
            scheme.decrypt(passphrase.expose_secret(), ciphertext).map(Zeroizing::new).map_err(
                |error| match error {
                    // The library uses either error for invalid padding.
                    pkcs5::Error::DecryptFailed | pkcs5::Error::EncryptFailed => {
                        KeyError::WrongPassphrase
                    }
                    other => malformed(other.to_string()),
                },
            )
        }
        PBE_SHA1_3DES | PBE_SHA1_2DES => {
            let passphrase = passphrase.ok_or(KeyError::PassphraseMissing)?;
            open_pkcs12_pbe(work, algorithm, ciphertext, passphrase)
        }
        other => Err(not_opened(other)),
    }
}

fn malformed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> KeyError {
    KeyError::malformed(ENCRYPTED_PKCS8, source)
}

fn parameters(algorithm: AlgorithmIdentifierRef<'_>) -> Result<AnyRef<'_>, KeyError> {
    algorithm
        .parameters
        .ok_or_else(|| malformed(format!("{} without its parameters", algorithm.oid)))
}

/// RFC 8018 appendix A.4.
fn pbes2_parameters(
    algorithm: AlgorithmIdentifierRef<'_>,
) -> Result<pbes2::Parameters<'_>, KeyError> {
    let (kdf, cipher) = parameters(algorithm)?
        .sequence(|fields| {
            Ok((AlgorithmIdentifierRef::decode(fields)?, AlgorithmIdentifierRef::decode(fields)?))
        })
        .map_err(malformed)?;
    let kdf = match kdf.oid {
        pbes2::PBKDF2_OID => pbes2::Kdf::Pbkdf2(pbkdf2_parameters(parameters(kdf)?)?),
        pbes2::SCRYPT_OID => pbes2::Kdf::Scrypt(parameters(kdf)?.try_into().map_err(malformed)?),
        other => return Err(not_opened(other)),
    };
    let vector = parameters(cipher)?.decode_as::<OctetStringRef<'_>>();
    match (cipher.oid, vector) {
        (pbes2::AES_128_CBC_OID | pbes2::AES_192_CBC_OID | pbes2::AES_256_CBC_OID, Ok(_)) => {}
        (DES_EDE3_CBC, Ok(vector)) if vector.as_bytes().len() == 8 => {}
        (DES_EDE3_CBC, _) => {
            return Err(malformed("its initialisation vector is not 8 bytes long"));
        }
        (other, _) => return Err(not_opened(other)),
    }
    let encryption = cipher.try_into().map_err(|error: der::Error| malformed(error))?;
    Ok(pbes2::Parameters { kdf, encryption })
}

/// RFC 8018 appendix A.2. The parameters of the PRF are NULL or missing.
fn pbkdf2_parameters(parameters: AnyRef<'_>) -> Result<pbes2::Pbkdf2Params<'_>, KeyError> {
    let (salt, iteration_count, key_length, prf) = parameters
        .sequence(|fields| {
            let salt = OctetStringRef::decode(fields)?.as_bytes();
            let (iterations, key_length) = (fields.decode()?, fields.decode()?);
            Ok((
                salt,
                iterations,
                key_length,
                Option::<AlgorithmIdentifierRef<'_>>::decode(fields)?,
            ))
        })
        .map_err(malformed)?;
    let prf = match prf {
        None => pbes2::Pbkdf2Prf::HmacWithSha1,
        Some(prf) => {
            if prf.parameters.is_some_and(|parameters| !parameters.is_null()) {
                return Err(malformed("the function of PBKDF2 has parameters"));
            }
            let known = [
                pbes2::Pbkdf2Prf::HmacWithSha1,
                pbes2::Pbkdf2Prf::HmacWithSha224,
                pbes2::Pbkdf2Prf::HmacWithSha256,
                pbes2::Pbkdf2Prf::HmacWithSha384,
                pbes2::Pbkdf2Prf::HmacWithSha512,
            ];
            known
                .into_iter()
                .find(|known| known.oid() == prf.oid)
                .ok_or_else(|| not_opened(prf.oid))?
        }
    };
    Ok(pbes2::Pbkdf2Params { salt, iteration_count, key_length, prf })
}

/// RFC 7292 appendix C: three-key or two-key triple DES, with a key derived with SHA-1.
fn open_pkcs12_pbe(
    work: &Work,
    algorithm: AlgorithmIdentifierRef<'_>,
    ciphertext: &[u8],
    passphrase: &SecretString,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    use pkcs12::kdf::{Pkcs12KeyType, derive_key_utf8};

    const BLOCK: usize = 8;

    let (salt, iterations): (_, u32) = parameters(algorithm)?
        .sequence(|fields| Ok((OctetStringRef::decode(fields)?.as_bytes(), fields.decode()?)))
        .map_err(malformed)?;
    work.covers_iterations("PKCS#12's derivation", iterations)?;
    let derived = |kind, length| {
        let iterations = i32::try_from(iterations).unwrap_or(i32::MAX);
        let derived = derive_key_utf8::<sha1::Sha1>(
            passphrase.expose_secret(),
            salt,
            kind,
            iterations,
            length,
        );
        derived.map(Zeroizing::new).map_err(malformed)
    };
    let mut key = derived(
        Pkcs12KeyType::EncryptionKey,
        if algorithm.oid == PBE_SHA1_3DES { 24 } else { 16 },
    )?;
    if key.len() == 16 {
        key.extend_from_within(..BLOCK);
    }
    let vector = derived(Pkcs12KeyType::Iv, BLOCK)?;
    let mut plain = Zeroizing::new(ciphertext.to_vec());
    // OpenSSH uses the same cipher, and its library provides it without the padding of PKCS#7.
    ssh_key::Cipher::TDesCbc
        .decrypt(&key, &vector, &mut plain, None)
        .map_err(|error| malformed(error.to_string()))?;
    let padding = usize::from(plain.last().copied().unwrap_or(0));
    let unpadded = plain.len().checked_sub(padding).filter(|_| (1..=BLOCK).contains(&padding));
    let unpadded =
        unpadded.filter(|end| plain[*end..].iter().all(|byte| usize::from(*byte) == padding));
    plain.truncate(unpadded.ok_or(KeyError::WrongPassphrase)?);
    Ok(plain)
}

fn not_opened(algorithm: ObjectIdentifier) -> KeyError {
    let number = algorithm.to_string();
    let name = match number.as_str() {
        "1.2.840.113549.1.5.1" => "PBE-MD2-DES",
        "1.2.840.113549.1.5.3" => "PBE-MD5-DES",
        "1.2.840.113549.1.5.4" => "PBE-MD2-RC2-64",
        "1.2.840.113549.1.5.6" => "PBE-MD5-RC2-64",
        "1.2.840.113549.1.5.10" => "PBE-SHA1-DES",
        "1.2.840.113549.1.5.11" => "PBE-SHA1-RC2-64",
        "1.2.840.113549.1.12.1.1" => "PBE-SHA1-RC4-128",
        "1.2.840.113549.1.12.1.2" => "PBE-SHA1-RC4-40",
        "1.2.840.113549.1.12.1.5" => "PBE-SHA1-RC2-128",
        "1.2.840.113549.1.12.1.6" => "PBE-SHA1-RC2-40",
        "1.3.14.3.2.7" => "DES-CBC",
        "1.2.840.113549.3.2" => "RC2-CBC",
        "2.16.840.1.101.3.4.1.6" | "2.16.840.1.101.3.4.1.26" | "2.16.840.1.101.3.4.1.46" => {
            "AES-GCM"
        }
        _ => "an unknown scheme",
    };
    KeyError::Convert {
        found: format!("a private key that is encrypted with {name} ({number})"),
        command: "openssl pkcs8 -topk8 -in FILE -out NEW -provider default -provider legacy",
    }
}
