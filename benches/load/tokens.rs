//! Signs tokens in bulk, right before they are needed, since they are valid only for a short time.
//! All are different.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::SystemTime,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use countersign::domain::{
    algorithm::Algorithm,
    key::{PrivateKey, PublicKey},
    time::UnixMillis,
};

const RSA_BITS: usize = 2048;

/// A signer: a username and a key.
#[derive(Debug)]
pub(crate) struct Signer {
    username: String,
    algorithm: Algorithm,
    key: Arc<PrivateKey>,
    /// The header of its tokens, encoded.
    header: String,
}

impl Signer {
    /// Makes a key for `algorithm`.
    pub(crate) fn new(username: String, algorithm: Algorithm) -> Self {
        let key = Arc::new(PrivateKey::generate(algorithm.family(), RSA_BITS).unwrap());
        let kid = key.public_key().fingerprint();
        let header = format!(r#"{{"typ":"JWT","alg":"{algorithm}","kid":"{kid}"}}"#);
        Self { username, algorithm, key, header: BASE64_URL_SAFE_NO_PAD.encode(header) }
    }

    /// Another signer with the same key: creating a key for each of many takes too long.
    #[allow(dead_code, reason = "not every bench that shares this file needs it")]
    pub(crate) fn renamed(&self, username: String) -> Self {
        Self {
            username,
            algorithm: self.algorithm,
            key: Arc::clone(&self.key),
            header: self.header.clone(),
        }
    }

    pub(crate) fn username(&self) -> &str {
        &self.username
    }

    pub(crate) fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    /// The value of an `Authorization` header with a token of time `time`, in seconds.
    fn authorization(&self, time: i64) -> String {
        let claims =
            format!(r#"{{"username":"{}","time":{time},"nonce":"{}"}}"#, self.username, nonce());
        let mut value = format!("JWT {}.", self.header);
        BASE64_URL_SAFE_NO_PAD.encode_string(claims, &mut value);
        let signature = self.key.sign(self.algorithm, &value.as_bytes()["JWT ".len()..]).unwrap();
        value.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut value);
        value
    }
}

/// Signs `count` tokens, by each of `signers` in turn, on every core. They are valid from now until
/// `ahead` and the service's tolerance have passed.
pub(crate) fn sign(signers: &[Signer], count: usize, ahead: i64) -> Vec<String> {
    let time = UnixMillis::from(SystemTime::now()).seconds() + ahead;
    let threads = thread::available_parallelism().map_or(1, Into::into);
    thread::scope(|scope| {
        let shares: Vec<_> = (0..threads)
            .map(|share| {
                let numbers = count * share / threads..count * (share + 1) / threads;
                scope.spawn(move || {
                    numbers
                        .map(|number| signers[number % signers.len()].authorization(time))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        shares.into_iter().flat_map(|share| share.join().unwrap()).collect()
    })
}

/// 16 bytes in 22 characters, like the client's nonces: half of them random per run, half of them a
/// counter.
fn nonce() -> String {
    static RUN: LazyLock<u64> = LazyLock::new(|| fastrand::u64(..));
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&RUN.to_be_bytes());
    bytes[8..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
