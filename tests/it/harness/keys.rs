//! Key pairs created and used without any of Countersign's code.

use aws_lc_rs::encoding::{
    AsBigEndian as _, AsDer, Curve25519SeedBin, Pkcs8V1Der, PublicKeyX509Der,
};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use pkcs1::der::Decode as _;
use serde_json::{Value, json};

pub enum Key {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
}

impl Key {
    pub fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    /// Reads an RSA key from PKCS#8 PEM.
    pub fn rsa_in(pem: &str) -> Self {
        Self::Rsa(RsaKeyPair::from_pkcs8(pem::parse(pem).unwrap().contents()).unwrap())
    }

    /// Reads an Ed25519 key from PKCS#8 PEM.
    pub fn ed25519_in(pem: &str) -> Self {
        Self::Ed25519(
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(pem::parse(pem).unwrap().contents())
                .unwrap(),
        )
    }

    pub fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    pub fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn p384() -> Self {
        Self::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    /// The default algorithm of a client for this key: the first that `asymmetric_jwt_auth` would
    /// choose.
    pub fn usual_algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS512",
            Self::Ed25519(_) => "EdDSA",
            Self::P256(_) => "ES256",
            Self::P384(_) => "ES384",
        }
    }

    /// Signs with the given `algorithm` if the key is RSA, which supports several; other keys
    /// support only one.
    pub fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Self::P256(key) | Self::P384(key) => {
                key.sign(&random, message).unwrap().as_ref().to_vec()
            }
            Self::Rsa(key) => {
                let padding: &'static dyn aws_lc_rs::signature::RsaEncoding = match algorithm {
                    "RS256" => &RSA_PKCS1_SHA256,
                    "RS384" => &RSA_PKCS1_SHA384,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    // Also used for algorithms that no RSA key supports: their tokens have to look
                    // real up to the name.
                    _ => &RSA_PKCS1_SHA512,
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// PKCS#8 PEM.
    pub fn private_pem(&self) -> String {
        match self {
            Self::Rsa(key) => {
                pem("PRIVATE KEY", AsDer::<Pkcs8V1Der<'_>>::as_der(key).unwrap().as_ref())
            }
            Self::Ed25519(key) => pem("PRIVATE KEY", key.to_pkcs8v1().unwrap().as_ref()),
            Self::P256(key) | Self::P384(key) => {
                pem("PRIVATE KEY", key.to_pkcs8v1().unwrap().as_ref())
            }
        }
    }

    /// SPKI PEM: 64 columns and a final newline; its SHA-256 is the fingerprint.
    pub fn public_pem(&self) -> String {
        let der: PublicKeyX509Der<'_> = match self {
            Self::Rsa(key) => key.public_key().as_der(),
            Self::Ed25519(key) => key.public_key().as_der(),
            Self::P256(key) | Self::P384(key) => key.public_key().as_der(),
        }
        .unwrap();
        pem("PUBLIC KEY", der.as_ref())
    }

    /// The public key as a JWK (RFC 7517), with no optional member but `kid`.
    pub fn jwk(&self, kid: &str) -> Value {
        let curve = |name: &str, key: &EcdsaKeyPair| {
            // 0x04, followed by the two coordinates.
            let (x, y) =
                key.public_key().as_ref()[1..].split_at(key.public_key().as_ref().len() / 2);
            json!({"kty": "EC", "crv": name, "kid": kid, "x": base64url(x), "y": base64url(y)})
        };
        match self {
            Self::Rsa(key) => {
                let public = pkcs1::RsaPublicKey::from_der(key.public_key().as_ref()).unwrap();
                let (n, e) = (public.modulus.as_bytes(), public.public_exponent.as_bytes());
                json!({"kty": "RSA", "kid": kid, "n": base64url(n), "e": base64url(e)})
            }
            Self::Ed25519(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": base64url(key.public_key().as_ref())})
            }
            Self::P256(key) => curve("P-256", key),
            Self::P384(key) => curve("P-384", key),
        }
    }

    /// The private key of an Ed25519 pair, encoded for a JWK.
    pub fn jwk_d(&self) -> String {
        let Self::Ed25519(key) = self else { panic!("not an Ed25519 key") };
        let seed: Curve25519SeedBin<'_> = key.seed().unwrap().as_be_bytes().unwrap();
        base64url(seed.as_ref())
    }

    /// The fingerprint, which tokens use as `kid`.
    pub fn fingerprint(&self) -> String {
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.public_pem().as_bytes());
        digest.as_ref().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
    }
}

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let lines: Vec<&str> =
        base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
