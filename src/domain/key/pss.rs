//! RSASSA-PSS with a salt of any length (RFC 8017 section 9.1.2), to explain why a signature does
//! not verify: libraries have different default lengths, and JWS requires the length of the digest
//! (RFC 7518 section 3.5). Decides nothing.

use aws_lc_rs::digest::{self, Digest};
use num_bigint::BigUint;

use crate::domain::algorithm::Algorithm;

use super::encoding::bit_length;

/// The length of the salt of `signature` over `message`, in bytes; `None` if the signature is
/// invalid for this key and algorithm with any salt.
pub(super) fn salt_length(
    modulus: &[u8],
    exponent: &[u8],
    algorithm: Algorithm,
    message: &[u8],
    signature: &[u8],
) -> Option<usize> {
    let hash = match algorithm {
        Algorithm::Ps256 => &digest::SHA256,
        Algorithm::Ps384 => &digest::SHA384,
        Algorithm::Ps512 => &digest::SHA512,
        _ => return None,
    };
    let encoded_bits = bit_length(modulus).checked_sub(1)?;
    let number = BigUint::from_bytes_be(signature);
    let number = number
        .modpow(&BigUint::from_bytes_be(exponent), &BigUint::from_bytes_be(modulus))
        .to_bytes_be();
    let length = encoded_bits.div_ceil(8);
    let encoded = [vec![0; length.checked_sub(number.len())?], number].concat();

    let (masked, rest) =
        encoded.split_at_checked(length.checked_sub(hash.output_len())?.checked_sub(1)?)?;
    let (digest_of_salted, trailer) = rest.split_at(hash.output_len());
    if trailer != [0xbc] {
        return None;
    }
    let mut block: Vec<u8> =
        masked.iter().zip(mask(hash, digest_of_salted)).map(|(byte, mask)| byte ^ mask).collect();
    *block.first_mut()? &= 0xff >> (8 * length - encoded_bits);
    let zeros = block.iter().take_while(|byte| **byte == 0).count();
    let (marker, salt) = block[zeros..].split_first()?;
    let digest = digest::digest(hash, message);
    let salted = digest::digest(hash, &[&[0; 8], digest.as_ref(), salt].concat());
    (*marker == 1 && salted.as_ref() == digest_of_salted).then_some(salt.len())
}

/// MGF1 (RFC 8017 appendix B.2.1), as an endless iterator.
fn mask(hash: &'static digest::Algorithm, seed: &[u8]) -> impl Iterator<Item = u8> {
    let block = move |counter: u32| -> Digest {
        let mut context = digest::Context::new(hash);
        context.update(seed);
        context.update(&counter.to_be_bytes());
        context.finish()
    };
    (0..).flat_map(move |counter| block(counter).as_ref().to_vec())
}
