//! OpenSSH's own format of private keys (its `PROTOCOL.key`), decrypted and rewritten in the one
//! variant that the library reads.
//!
//! Tools write different variants: lines of 64 and of 76 columns, EC scalars without leading zeros
//! (`ssh-keygen`, one key in 512), a whole block of unneeded padding, comments that are not UTF-8.
//! OpenSSH reads all of them; the library reads only its own.

use secrecy::{ExposeSecret, SecretString};
use ssh_key::{Cipher, Kdf};
use zeroize::Zeroizing;

use super::{
    KeyError,
    encoding::{coordinate_length, kind_of_openssh, without_leading_zeros},
    private::Work,
};
use crate::domain::algorithm::KeyFamily;

pub(super) const OPENSSH: &str = "OpenSSH private key";

const MAGIC: &[u8] = b"openssh-key-v1\0";
/// The block size for the padding of unencrypted keys, in bytes.
const BLOCK: usize = 8;

/// Parses the content of a `BEGIN OPENSSH PRIVATE KEY` block, and decrypts it if it is encrypted.
pub(super) fn open(
    work: &Work,
    bytes: &[u8],
    passphrase: Option<&SecretString>,
) -> Result<ssh_key::PrivateKey, KeyError> {
    let file = Container::read(bytes)
        .ok_or_else(|| KeyError::malformed(OPENSSH, "it is cut short, or something else"))?;
    if file.keys != 1 {
        return Err(KeyError::SeveralKeys { count: file.keys as usize });
    }
    let section = match file.cipher {
        b"none" => Zeroizing::new(file.private.to_vec()),
        _ => file.decrypt(work, passphrase)?,
    };
    let section = canonical_section(&section, file.cipher != b"none")?;
    let mut canonical = Zeroizing::new(MAGIC.to_vec());
    for field in [b"none", b"none", &b""[..]] {
        put_string(&mut canonical, field);
    }
    canonical.extend(1_u32.to_be_bytes());
    put_string(&mut canonical, file.public);
    put_string(&mut canonical, &section);
    ssh_key::PrivateKey::from_bytes(&canonical).map_err(|error| KeyError::malformed(OPENSSH, error))
}

/// The file's fields, still encrypted.
struct Container<'a> {
    cipher: &'a [u8],
    kdf: &'a [u8],
    kdf_options: &'a [u8],
    keys: u32,
    public: &'a [u8],
    private: &'a [u8],
    tag: &'a [u8],
}

impl<'a> Container<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(bytes.strip_prefix(MAGIC)?);
        let (cipher, kdf, kdf_options) = (fields.string()?, fields.string()?, fields.string()?);
        let (keys, public, private) = (fields.number()?, fields.string()?, fields.string()?);
        Some(Self { cipher, kdf, kdf_options, keys, public, private, tag: fields.0 })
    }

    fn decrypt(
        &self,
        work: &Work,
        passphrase: Option<&SecretString>,
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let passphrase = passphrase.ok_or(KeyError::PassphraseMissing)?;
        let unknown = |what: &str, name: &[u8]| KeyError::Convert {
            found: format!(
                "an OpenSSH private key with the {what} {:?}",
                String::from_utf8_lossy(name)
            ),
            command: "ssh-keygen -p -Z aes256-ctr -f FILE",
        };
        let cipher = std::str::from_utf8(self.cipher).ok().and_then(|name| Cipher::new(name).ok());
        let cipher = cipher.ok_or_else(|| unknown("cipher", self.cipher))?;
        if self.kdf != b"bcrypt" {
            return Err(unknown("key derivation", self.kdf));
        }
        let mut options = Fields(self.kdf_options);
        let (Some(salt), Some(rounds)) = (options.string(), options.number()) else {
            return Err(KeyError::malformed(OPENSSH, "the parameters of bcrypt are cut short"));
        };
        let kdf = Kdf::Bcrypt { salt: salt.to_vec(), rounds };
        work.covers_openssh(&kdf)?;
        let malformed =
            |error: &dyn std::fmt::Display| KeyError::malformed(OPENSSH, error.to_string());
        let tag = match (cipher.has_tag(), <[u8; 16]>::try_from(self.tag)) {
            (false, _) if self.tag.is_empty() => None,
            (true, Ok(tag)) => Some(tag),
            _ => return Err(malformed(&"what follows the key is not its tag")),
        };
        if !self.private.len().is_multiple_of(cipher.block_size()) {
            return Err(malformed(&"it is not a whole number of blocks"));
        }
        let (key, iv) = kdf
            .derive_key_and_iv(cipher, passphrase.expose_secret().as_bytes())
            .map_err(|error| malformed(&error))?;
        let mut section = Zeroizing::new(self.private.to_vec());
        cipher.decrypt(&key, &iv, &mut section, tag).map_err(|_| KeyError::WrongPassphrase)?;
        Ok(section)
    }
}

/// The private section as the library writes it: scalars at full length, no comment, minimal
/// padding.
fn canonical_section(section: &[u8], was_encrypted: bool) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let cut_short = || KeyError::malformed(OPENSSH, "its private part is cut short");
    let mut fields = Fields(section);
    let (Some(check), Some(again)) = (fields.number(), fields.number()) else {
        return Err(cut_short());
    };
    if check != again {
        let damaged = || KeyError::malformed(OPENSSH, "its two check numbers differ");
        return Err(if was_encrypted { KeyError::WrongPassphrase } else { damaged() });
    }
    let kind = fields.string().ok_or_else(cut_short)?;
    let mut canonical = Zeroizing::new(Vec::with_capacity(section.len() + 64));
    canonical.extend(check.to_be_bytes());
    canonical.extend(check.to_be_bytes());
    put_string(&mut canonical, kind);
    let plain_fields = match kind {
        b"ssh-rsa" => 6,
        b"ssh-ed25519" | b"ecdsa-sha2-nistp256" | b"ecdsa-sha2-nistp384" => 2,
        other => {
            return Err(KeyError::UnsupportedKind {
                found: kind_of_openssh(&String::from_utf8_lossy(other)),
            });
        }
    };
    for _ in 0..plain_fields {
        put_string(&mut canonical, fields.string().ok_or_else(cut_short)?);
    }
    let scalar_of = match kind {
        b"ecdsa-sha2-nistp256" => Some(KeyFamily::P256),
        b"ecdsa-sha2-nistp384" => Some(KeyFamily::P384),
        _ => None,
    };
    if let Some(family) = scalar_of {
        let scalar = without_leading_zeros(fields.string().ok_or_else(cut_short)?);
        let too_long = || KeyError::malformed(OPENSSH, "its scalar is too long");
        let zeros = coordinate_length(family).checked_sub(scalar.len()).ok_or_else(too_long)?;
        put_string(&mut canonical, &Zeroizing::new([&vec![0; zeros], scalar].concat()));
    }
    let _comment = fields.string().ok_or_else(cut_short)?;
    if !fields.0.iter().copied().eq(padding().take(fields.0.len())) {
        return Err(KeyError::malformed(OPENSSH, "its padding is damaged"));
    }
    put_string(&mut canonical, b"");
    let missing = canonical.len().next_multiple_of(BLOCK) - canonical.len();
    canonical.extend(padding().take(missing));
    Ok(canonical)
}

/// The padding: 1, 2, 3 and so on; after 255 it wraps around.
fn padding() -> impl Iterator<Item = u8> {
    (0..=u8::MAX).cycle().skip(1)
}

fn put_string(bytes: &mut Vec<u8>, field: &[u8]) {
    // Each field is part of a file that was read completely, so its length fits.
    bytes.extend(u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend(field);
}

/// The bytes that are not parsed yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }
}
