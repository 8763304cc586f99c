//! [Wycheproof](https://github.com/C2SP/wycheproof), commit dac1dd4729fd1f8dd9e1e9f3dce51d783da6c166, `testvectors_v1`, Apache-2.0
//! (`wycheproof/LICENSE`): the files as they are there, compressed with `gzip -9n`.
//!
//! Every case of every file is judged correctly: valid signatures verify, invalid ones do not.
//! Valid cases that we do not support (HMAC, P-521, another salt, another hash for the mask) must
//! be refused, and each is counted, so that none is skipped unnoticed.
//!
//! | flag of an `acceptable` case | we | why |
//! | --- | --- | --- |
//! | `MissingNull` (the `DigestInfo` leaves out the NULL of its algorithm) | refuse | RFC 8017 section 9.2 note 1 lets verifiers compare the one encoding, and two encodings of one signature help nobody but forgers |

use std::{collections::BTreeMap, path::Path};

use countersign::domain::{
    algorithm::Algorithm,
    key::{PublicKey, VerifyingKey},
};
use serde_json::Value;

use crate::jws::{key_of, refused_by_form, verifies, verifies_with};

/// The groups of a file, as in the JSON.
fn groups(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors/wycheproof")
        .join(format!("{name}_test.json.gz"));
    let file: Value = serde_json::from_slice(&gunzip(&std::fs::read(path).unwrap())).unwrap();
    let groups = file["testGroups"].as_array().unwrap().clone();
    let count: usize = groups.iter().map(|group| tests(group).len()).sum();
    assert_eq!(count as u64, file["numberOfTests"].as_u64().unwrap(), "{name} is not whole");
    groups
}

/// What `gzip -n` writes: a header of 10 bytes without options (RFC 1952), the data, its checksum
/// and its length.
fn gunzip(file: &[u8]) -> Vec<u8> {
    assert_eq!(file[..4], [0x1f, 0x8b, 8, 0]);
    let (body, trailer) = file[10..].split_at(file.len() - 18);
    let data = miniz_oxide::inflate::decompress_to_vec(body).unwrap();
    assert_eq!(crc32fast::hash(&data).to_le_bytes(), trailer[..4]);
    data
}

fn tests(group: &Value) -> &[Value] {
    group["tests"].as_array().unwrap()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn spki_key(group: &Value) -> VerifyingKey {
    VerifyingKey::new(&PublicKey::from_spki(&bytes(&group["publicKeyDer"])).unwrap())
}

/// How many cases of each kind were judged.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    fn note(&mut self, kind: &'static str) {
        *self.0.entry(kind).or_default() += 1;
    }

    fn assert(&self, expected: &[(&'static str, usize)]) {
        assert_eq!(
            self.0,
            expected.iter().copied().collect(),
            "how many cases of which kind were judged"
        );
    }
}

/// Judges one raw signature. `ours` says whether the parameters of the group are those of
/// `algorithm`.
fn judge(
    tally: &mut Tally,
    case: (&str, &Value),
    key: &VerifyingKey,
    algorithm: Algorithm,
    ours: bool,
    signature: &[u8],
) {
    let (file, test) = case;
    let verified = key.verify(algorithm, &bytes(&test["msg"]), signature);
    let kind = match test["result"].as_str().unwrap() {
        "valid" if ours => "valid",
        "valid" => "valid by parameters that JOSE does not have",
        "invalid" => "invalid",
        "acceptable" => {
            assert_eq!(
                test["flags"],
                serde_json::json!(["MissingNull"]),
                "a flag that the table above does not have"
            );
            "acceptable"
        }
        other => panic!("{other}"),
    };
    assert_eq!(verified, kind == "valid", "{file} {} {}: {kind}", test["tcId"], test["comment"]);
    tally.note(kind);
}

#[test]
fn rsa_pkcs1() {
    let mut tally = Tally::default();
    for bits in [2048, 3072, 4096, 8192] {
        for (hash, algorithm) in
            [("256", Algorithm::Rs256), ("384", Algorithm::Rs384), ("512", Algorithm::Rs512)]
        {
            let file = format!("rsa_signature_{bits}_sha{hash}");
            for group in groups(&file) {
                assert_eq!(group["sha"], format!("SHA-{hash}"));
                let key = spki_key(&group);
                for test in tests(&group) {
                    judge(&mut tally, (&file, test), &key, algorithm, true, &bytes(&test["sig"]));
                }
            }
        }
    }
    tally.assert(&[("acceptable", 12), ("invalid", 3005), ("valid", 89)]);
}

/// JOSE's PSS uses the same hash for the mask, and a salt as long as the hash (RFC 7518 section
/// 3.5).
#[test]
fn rsa_pss() {
    let mut tally = Tally::default();
    for file in [
        "rsa_pss_2048_sha1_mgf1_20",
        "rsa_pss_2048_sha256_mgf1_0",
        "rsa_pss_2048_sha256_mgf1_32",
        "rsa_pss_2048_sha256_mgf1sha1_20",
        "rsa_pss_2048_sha384_mgf1_48",
        "rsa_pss_2048_sha512_256_mgf1_32",
        "rsa_pss_2048_sha512_mgf1sha256_32_params",
        "rsa_pss_3072_sha256_mgf1_32",
        "rsa_pss_4096_sha256_mgf1_32",
        "rsa_pss_4096_sha384_mgf1_48",
        "rsa_pss_4096_sha512_mgf1_32",
        "rsa_pss_4096_sha512_mgf1_64",
        "rsa_pss_misc",
    ] {
        for group in groups(file) {
            let (hash, mask, salt) =
                (group["sha"].as_str().unwrap(), &group["mgfSha"], group["sLen"].as_u64().unwrap());
            let (named, length) = match hash {
                "SHA-256" => (Algorithm::Ps256, 32),
                "SHA-384" => (Algorithm::Ps384, 48),
                "SHA-512" => (Algorithm::Ps512, 64),
                // None of our algorithms has this hash: each of them has to refuse it.
                _ => (Algorithm::Ps256, 0),
            };
            let ours = mask == hash && salt == length && length > 0;
            // The same key without the restriction to parameters that a JOSE key cannot express.
            let key = VerifyingKey::new(&plain_rsa(&group));
            for test in tests(&group) {
                for algorithm in [Algorithm::Ps256, Algorithm::Ps384, Algorithm::Ps512] {
                    // In a group with another salt length, one case is invalid because it has the
                    // length that is valid here.
                    if length > 0
                        && mask == hash
                        && algorithm == named
                        && test["comment"] == format!("s_len changed to {length}")
                    {
                        assert!(
                            key.verify(algorithm, &bytes(&test["msg"]), &bytes(&test["sig"])),
                            "{file} {}",
                            test["tcId"]
                        );
                        tally.note("invalid for a salt that JOSE has");
                        continue;
                    }
                    judge(
                        &mut tally,
                        (file, test),
                        &key,
                        algorithm,
                        ours && algorithm == named,
                        &bytes(&test["sig"]),
                    );
                }
            }
        }
    }
    tally.assert(&[
        ("invalid", 1_631),
        ("invalid for a salt that JOSE has", 1),
        ("valid", 514),
        ("valid by parameters that JOSE does not have", 2_966),
    ]);
}

fn plain_rsa(group: &Value) -> PublicKey {
    let pkcs1 = bytes(&group["publicKeyAsn"]);
    PublicKey::parse(&pem::encode(&pem::Pem::new("RSA PUBLIC KEY", pkcs1))).unwrap().key
}

#[test]
fn a_key_that_states_parameters_of_pss_is_refused() {
    let group = &groups("rsa_pss_2048_sha512_mgf1sha256_32_params")[0];
    assert!(PublicKey::from_spki(&bytes(&group["publicKeyDer"])).is_err());
}

/// JOSE's signatures are `r || s` (RFC 7518 section 3.4).
#[test]
fn ecdsa_as_in_jose() {
    let mut tally = Tally::default();
    for (file, algorithm) in [
        ("ecdsa_secp256r1_sha256_p1363", Algorithm::Es256),
        ("ecdsa_secp384r1_sha384_p1363", Algorithm::Es384),
    ] {
        for group in groups(file) {
            let key = spki_key(&group);
            // Some exist in DER only.
            if group["publicKeyJwk"].is_object() {
                let same = key_of(&group["publicKeyJwk"]).unwrap();
                assert_eq!(key.fingerprint(), same.fingerprint(), "the key as a JWK");
            }
            for test in tests(&group) {
                judge(&mut tally, (file, test), &key, algorithm, true, &bytes(&test["sig"]));
            }
        }
    }
    tally.assert(&[("invalid", 176), ("valid", 366)]);
}

/// A DER signature is not a JOSE signature and never verifies. Its numbers as `r || s` verify if
/// and only if it is valid. A signature that is not strict DER, or whose numbers are out of range
/// for `r || s`, has no such form.
#[test]
fn ecdsa_in_der() {
    let mut tally = Tally::default();
    for (file, algorithm, length) in [
        ("ecdsa_secp256r1_sha256", Algorithm::Es256, 32),
        ("ecdsa_secp384r1_sha384", Algorithm::Es384, 48),
    ] {
        for group in groups(file) {
            let key = spki_key(&group);
            for test in tests(&group) {
                let der = bytes(&test["sig"]);
                assert!(
                    !key.verify(algorithm, &bytes(&test["msg"]), &der),
                    "{file} {}: DER passed",
                    test["tcId"]
                );
                if let Some(fixed) = fixed(&der, length) {
                    judge(&mut tally, (file, test), &key, algorithm, true, &fixed);
                } else {
                    assert_eq!(test["result"], "invalid", "{file} {}", test["tcId"]);
                    tally.note("invalid, without a form of r || s");
                }
            }
        }
    }
    assert_eq!(tally.0["valid"], 368);
    assert_eq!(tally.0["invalid"] + tally.0["invalid, without a form of r || s"], 620);
}

/// The two numbers of an `ECDSA-Sig-Value` (RFC 3279 section 2.2.3), each in `length` bytes.
fn fixed(signature: &[u8], length: usize) -> Option<Vec<u8>> {
    use der::{Decode, Reader, SliceReader, asn1::UintRef};

    let mut outer = SliceReader::new(signature).ok()?;
    let numbers = outer
        .sequence(|inner| {
            Ok([UintRef::decode(inner)?.as_bytes(), UintRef::decode(inner)?.as_bytes()])
        })
        .ok()?;
    if !outer.is_finished() {
        return None;
    }
    let mut fixed = Vec::new();
    for number in numbers {
        fixed.resize(fixed.len() + length.checked_sub(number.len())?, 0);
        fixed.extend_from_slice(number);
    }
    Some(fixed)
}

#[test]
fn ed25519() {
    let mut tally = Tally::default();
    for group in groups("ed25519") {
        let key = spki_key(&group);
        assert_eq!(
            key.fingerprint(),
            key_of(&group["publicKeyJwk"]).unwrap().fingerprint(),
            "the key as a JWK"
        );
        for test in tests(&group) {
            judge(
                &mut tally,
                ("ed25519", test),
                &key,
                Algorithm::EdDsa,
                true,
                &bytes(&test["sig"]),
            );
        }
    }
    tally.assert(&[("invalid", 63), ("valid", 88)]);
}

/// Why a valid JWS is refused here.
fn not_ours(key: &Value, jws: &str) -> Option<&'static str> {
    match (key["kty"].as_str(), key["crv"].as_str()) {
        (Some("oct"), _) => Some("valid by HMAC, which nobody signs with here"),
        (Some("EC"), Some("P-521")) => Some("valid by P-521, which is not supported"),
        // RFC 7520's Figure 20 is signed with PS384. Its key names no algorithm in the RFC, and
        // PS256 in this file.
        _ if key["alg"] == "PS256"
            && header_of(jws).is_some_and(|header| header["alg"] == "PS384") =>
        {
            Some("valid but for the algorithm that its key names")
        }
        _ => None,
    }
}

#[test]
fn json_web_signatures() {
    let mut tally = Tally::default();
    for group in groups("json_web_signature") {
        let key = if group["public"].is_object() { &group["public"] } else { &group["private"] };
        for test in tests(&group) {
            judge_jws(&mut tally, key, test);
        }
    }
    eprintln!("{:?}", tally.0);
    assert_eq!(tally.0.values().sum::<usize>(), 401);
}

fn judge_jws(tally: &mut Tally, key: &Value, test: &Value) {
    let Some(jws) = test["jws"].as_str() else {
        assert_eq!(test["result"], "invalid", "{test}");
        tally.note("not a text");
        return;
    };
    let verified = verifies(jws, key) && refused_by_form(jws).is_none();
    let kind = match (test["result"].as_str().unwrap(), not_ours(key, jws)) {
        ("valid", Some(reason)) => reason,
        ("valid", None) => "valid",
        ("invalid", _) => "invalid",
        (other, _) => panic!("{other}"),
    };
    assert_eq!(verified, kind == "valid", "{} {}: {kind}", test["tcId"], test["comment"]);
    tally.note(kind);
}

#[test]
fn json_web_keys() {
    let mut tally = Tally::default();
    for file in ["json_web_key", "json_web_crypto"] {
        for group in groups(file) {
            if group["comment"].as_str().unwrap().starts_with("jwe_") {
                // Encryption is not supported: an encrypted token has five parts, and is refused.
                for test in tests(&group) {
                    let text = test["jwe"].as_str().unwrap_or_default();
                    assert!(refused_by_form(text).is_some(), "{file} {}", test["tcId"]);
                    tally.note("encrypted");
                }
                continue;
            }
            let holder =
                if group["public"].is_object() { &group["public"] } else { &group["private"] };
            let keys = holder["keys"].as_array().cloned().unwrap_or_else(|| vec![holder.clone()]);
            for test in tests(&group) {
                // As a key set is used: the key that the `kid` names, whatever else is in the set.
                let named = test["jws"].as_str().and_then(kid_of);
                let key = keys
                    .iter()
                    .find(|key| named.is_none() || key["kid"] == *named.as_ref().unwrap());
                judge_jws(&mut tally, key.unwrap_or(&Value::Null), test);
            }
        }
    }
    eprintln!("{:?}", tally.0);
}

fn header_of(jws: &str) -> Option<Value> {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(jws.split('.').next()?).ok()?).ok()
}

fn kid_of(jws: &str) -> Option<String> {
    Some(header_of(jws)?["kid"].as_str()?.to_owned())
}

#[test]
fn a_key_verifies_with_no_algorithm_of_another_kind() {
    let key = spki_key(&groups("ed25519")[0]);
    let test = &groups("ed25519")[0]["tests"][0];
    for algorithm in Algorithm::ALL {
        let verified = key.verify(algorithm, &bytes(&test["msg"]), &bytes(&test["sig"]));
        assert_eq!(verified, algorithm == Algorithm::EdDsa, "{algorithm}");
    }
    assert!(!verifies_with("eyJhbGciOiJub25lIn0..", &key));
}
