//! Both implementations give the same answers, whichever this processor would use.

#![cfg(target_arch = "x86_64")]

use std::{cell::Cell, collections::BTreeMap};

use aws_lc_rs::digest;
use curve25519_dalek::{EdwardsPoint, Scalar, constants::EIGHT_TORSION};
use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, TestRunner},
};
use serde::Deserialize;

use super::*;
use crate::domain::json;

const ALL: [Implementation; 2] = [Implementation::AwsLc, Implementation::Dalek];

/// The order of the base point, little-endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// Whether `signature` verifies; both implementations must agree.
fn judge(key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    let [aws_lc, dalek] =
        ALL.map(|implementation| Key::with(implementation, key).verify(message, signature));
    assert_eq!(
        aws_lc, dalek,
        "aws-lc and ed25519-dalek on key {key:02x?}, message {message:02x?}, signature {signature:02x?}"
    );
    dalek
}

#[test]
fn the_choice_is_the_processors() {
    assert_eq!(
        option_env!("CARGO_CFG_CURVE25519_DALEK_BACKEND"),
        Some("avx512"),
        "built without .cargo/config.toml"
    );
    let has_ifma = is_x86_feature_detected!("avx512ifma") && is_x86_feature_detected!("avx512vl");
    let expected = if has_ifma { Implementation::Dalek } else { Implementation::AwsLc };
    assert_eq!(Implementation::of_this_processor(), expected);
    assert_eq!(matches!(Key::new(&[0; 32]), Key::Dalek { .. }), has_ifma);
}

/// Tries `ED25519_CASES` changed signatures (`make signatures`: 1,000,000).
#[test]
fn changed_keys_signatures_and_messages_are_judged_alike() {
    let cases = std::env::var("ED25519_CASES")
        .ok()
        .map_or(5_000, |cases| cases.parse().expect("ED25519_CASES is no number"));
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let counts = [const { Cell::new(0_u32) }; 2];
    TestRunner::new(config)
        .run(&(signed(), proptest::collection::vec(change(), 0..3)), |(mut signed, changes)| {
            for change in changes {
                signed.apply(change);
            }
            let count =
                &counts[usize::from(judge(&signed.key, &signed.message, &signed.signature))];
            count.set(count.get() + 1);
            Ok(())
        })
        .unwrap();
    // Both answers are common enough for the agreement to mean something: a tenth verifies.
    assert!(counts.iter().all(|count| count.get() > cases / 20), "{counts:?}");
}

#[derive(Clone, Debug)]
struct Signed {
    key: [u8; 32],
    message: Vec<u8>,
    signature: Vec<u8>,
}

impl Signed {
    /// A signature that solves the equation except for the components of small order in the key and
    /// in `R`. Each is given with the scalar of its large-order component: the private key and the
    /// nonce.
    fn new(
        (scalar, key): (Scalar, [u8; 32]),
        (nonce, r): (Scalar, [u8; 32]),
        message: Vec<u8>,
    ) -> Self {
        let hash = digest::digest(&digest::SHA512, &[&r, &key, &*message].concat());
        let k = Scalar::from_bytes_mod_order_wide(hash.as_ref().try_into().unwrap());
        let s = nonce + k * scalar;
        Self { key, message, signature: [r, s.to_bytes()].concat() }
    }

    fn apply(&mut self, change: Change) {
        let s = 32..64;
        match change {
            Change::Flip(bit) => {
                let all = self.key.iter_mut().chain(&mut self.signature).chain(&mut self.message);
                let mut all: Vec<&mut u8> = all.collect();
                let bit = bit.index(all.len() * 8);
                *all[bit / 8] ^= 1 << (bit % 8);
            }
            Change::Resize(length) => self.signature.resize(length, 0),
            _ if self.signature.len() != 64 => {}
            Change::Key(key) => self.key = key,
            Change::R(r) => self.signature[..32].copy_from_slice(&r),
            Change::S(bytes) => self.signature[s].copy_from_slice(&bytes),
            Change::AddOrder => {
                let mut carry = 0;
                for (byte, addend) in self.signature[s].iter_mut().zip(ORDER) {
                    let sum = u16::from(*byte) + u16::from(addend) + carry;
                    [*byte, _] = sum.to_le_bytes();
                    carry = sum >> 8;
                }
            }
            Change::Negate => {
                let bytes: [u8; 32] = self.signature[s.clone()].try_into().unwrap();
                self.signature[s]
                    .copy_from_slice(&(-Scalar::from_bytes_mod_order(bytes)).to_bytes());
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Change {
    /// Flips one bit of the key, the signature or the message.
    Flip(Index),
    Key([u8; 32]),
    R([u8; 32]),
    S([u8; 32]),
    /// Adds the order: the same number modulo the order.
    AddOrder,
    Negate,
    Resize(usize),
}

fn signed() -> impl Strategy<Value = Signed> {
    let scalar = prop_oneof![1 => Just(Scalar::ZERO), 4 => any::<[u8; 32]>().prop_map(Scalar::from_bytes_mod_order)];
    let torsion = prop_oneof![1 => Just(0_usize), 1 => 0..8_usize];
    let encode = |(scalar, torsion): (Scalar, usize)| {
        (scalar, (EdwardsPoint::mul_base(&scalar) + EIGHT_TORSION[torsion]).compress().0)
    };
    let special =
        proptest::sample::select(special_encodings()).prop_map(|encoded| (Scalar::ZERO, encoded));
    let point = prop_oneof![5 => (scalar, torsion).prop_map(encode), 1 => special];
    (point.clone(), point, proptest::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(key, r, message)| Signed::new(key, r, message))
}

fn change() -> impl Strategy<Value = Change> {
    let encoding =
        prop_oneof![1 => any::<[u8; 32]>(), 3 => proptest::sample::select(special_encodings())];
    let special_s =
        proptest::sample::select(vec![[0; 32], ORDER, [0xff; 32], Scalar::ONE.to_bytes()]);
    prop_oneof![
        4 => any::<Index>().prop_map(Change::Flip),
        1 => encoding.clone().prop_map(Change::Key),
        1 => encoding.prop_map(Change::R),
        1 => prop_oneof![any::<[u8; 32]>(), special_s].prop_map(Change::S),
        1 => Just(Change::AddOrder),
        1 => Just(Change::Negate),
        1 => proptest::sample::select(vec![0_usize, 32, 63, 65, 128]).prop_map(Change::Resize),
    ]
}

/// The points of small order, the ones with `x = 0` again with a sign, and every `y` that is not
/// reduced, with either sign.
fn special_encodings() -> Vec<[u8; 32]> {
    let mut encodings: Vec<[u8; 32]> =
        EIGHT_TORSION.iter().map(|point| point.compress().0).collect();
    for beyond in 0..19 {
        let mut y = [0xff; 32];
        y[0] = 0xed + beyond;
        encodings.push(y);
        y[31] = 0x7f;
        encodings.push(y);
    }
    for y in [1, -1] {
        let mut encoded = if y == 1 { [0; 32] } else { [0xff; 32] };
        encoded[0] = if y == 1 { 1 } else { 0xec };
        encoded[31] |= 0x80;
        encodings.push(encoded);
    }
    encodings
}

/// A key of small order signs every message together with an `R` of small order, if their
/// components cancel out.
#[test]
fn special_encodings_are_judged_alike() {
    let special = special_encodings();
    let canonical = &special[..EIGHT_TORSION.len()];
    let mut verified = 0;
    for key in &special {
        for r in &special {
            for message in 0_u8..16 {
                let good = judge(key, &[message], &[*r, [0; 32]].concat());
                assert!(
                    !good || (canonical.contains(key) && canonical.contains(r)),
                    "{key:02x?} {r:02x?}"
                );
                verified += u32::from(good);
            }
        }
    }
    // For each key and message one of the eight `R` cancels out: about 128.
    assert!((50..250).contains(&verified), "{verified}");
}

#[derive(Deserialize)]
struct Cases<T> {
    cases: Vec<T>,
}

/// A list as the only member of an object, since `domain::json` does not accept lists.
fn list<T: for<'a> Deserialize<'a>>(list: &[u8]) -> Vec<T> {
    let object = [b"{\"cases\":", list, b"}"].concat();
    json::object::<Cases<T>>(&object).unwrap().cases
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Decompresses the output of `gzip -n`: a header of 10 bytes, the data, its checksum and its
/// length.
fn gunzip(file: &[u8]) -> Vec<u8> {
    let data = miniz_oxide::inflate::decompress_to_vec(&file[10..file.len() - 8]).unwrap();
    assert_eq!(crc32fast::hash(&data).to_le_bytes(), file[file.len() - 8..file.len() - 4]);
    data
}

macro_rules! vectors {
    ($path:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/", $path))
    };
}

/// The vectors of a paper about differences between verifiers
/// (<https://eprint.iacr.org/2020/1244>):
/// [ed25519-speccheck](https://github.com/novifinancial/ed25519-speccheck), commit
/// 65519336fda78a3d016e947df6d82848aca0c9da, `cases.json` unchanged, Apache-2.0
/// (`tests/vectors/speccheck/LICENSE`).
#[test]
fn the_vectors_of_speccheck() {
    #[derive(Deserialize)]
    struct Case {
        message: String,
        pub_key: String,
        signature: String,
    }

    let answers: Vec<bool> = list::<Case>(vectors!("speccheck/cases.json"))
        .iter()
        .map(|case| {
            judge(
                &bytes(&case.pub_key).try_into().unwrap(),
                &bytes(&case.message),
                &bytes(&case.signature),
            )
        })
        .collect();
    // Components of small order that cancel out (0 to 3) and that do not (4, 5); `s` out of range
    // (6, 7); a non-canonical encoding of `R` (8, 9) and of the key (10, 11).
    assert_eq!(
        answers,
        [true, true, true, true, false, false, false, false, false, false, false, false]
    );
}

/// [CCTV](https://github.com/C2SP/CCTV), commit 1e3d2860d46e94e777e1b17c7a6f2436387e3ecc,
/// `ed25519/ed25519vectors.json`, compressed with `gzip -9n`, BSD-3-Clause
/// (`tests/vectors/cctv/LICENSE`).
#[test]
fn the_vectors_of_cctv() {
    #[derive(Deserialize)]
    struct Case {
        number: u32,
        key: String,
        sig: String,
        msg: String,
        flags: Option<Vec<String>>,
    }

    let mut counts = BTreeMap::<bool, u32>::new();
    for case in list::<Case>(&gunzip(vectors!("cctv/ed25519vectors.json.gz"))) {
        let verified =
            judge(&bytes(&case.key).try_into().unwrap(), case.msg.as_bytes(), &bytes(&case.sig));
        let refused = ["non_canonical_A", "non_canonical_R", "low_order_residue"];
        let expected = !case.flags.iter().flatten().any(|flag| refused.contains(&flag.as_str()));
        assert_eq!(verified, expected, "{}: {:?}", case.number, case.flags);
        *counts.entry(verified).or_default() += 1;
    }
    assert_eq!(counts.values().sum::<u32>(), 914, "{counts:?}");
}

/// The vectors of `tests/vectors/wycheproof.rs`, with both implementations.
#[test]
fn the_vectors_of_wycheproof() {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct File {
        test_groups: Vec<Group>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Group {
        public_key: PublicKey,
        tests: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct PublicKey {
        pk: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Case {
        tc_id: u32,
        msg: String,
        sig: String,
        result: String,
    }

    let mut judged = 0;
    for group in json::object::<File>(&gunzip(vectors!("wycheproof/ed25519_test.json.gz")))
        .unwrap()
        .test_groups
    {
        let key = bytes(&group.public_key.pk).try_into().unwrap();
        for case in group.tests {
            assert_eq!(
                judge(&key, &bytes(&case.msg), &bytes(&case.sig)),
                case.result == "valid",
                "{}",
                case.tc_id
            );
            judged += 1;
        }
    }
    assert_eq!(judged, 151);
}
