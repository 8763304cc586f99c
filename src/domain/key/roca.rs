//! RSA keys of a broken generator (ROCA, CVE-2017-15361): its primes, and therefore their products,
//! are powers of 65537 modulo the product of many small primes. Such keys can be factored.

/// The odd primes up to 167. The primes of all affected keys of 512 bits and more have the property
/// modulo each of these.
const PRIMES: [u64; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97,
    101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];
const GENERATOR: u64 = 65537;

/// The powers of [`GENERATOR`] modulo each of [`PRIMES`], as bit sets.
const SUBGROUPS: [[u64; 3]; PRIMES.len()] = {
    let mut subgroups = [[0; 3]; PRIMES.len()];
    let mut index = 0;
    while index < PRIMES.len() {
        let mut power = 1;
        loop {
            subgroups[index][(power / 64) as usize] |= 1 << (power % 64);
            power = power * GENERATOR % PRIMES[index];
            if power == 1 {
                break;
            }
        }
        index += 1;
    }
    subgroups
};

/// Whether a big-endian modulus has that structure. One in 2^28 of other RSA keys has it by chance.
pub(super) fn is_of_the_broken_generator(modulus: &[u8]) -> bool {
    PRIMES.iter().zip(&SUBGROUPS).all(|(prime, subgroup)| {
        let remainder =
            modulus.iter().fold(0, |remainder, byte| (remainder << 8 | u64::from(*byte)) % prime);
        let word = usize::try_from(remainder / 64).ok().and_then(|word| subgroup.get(word));
        word.is_some_and(|word| word >> (remainder % 64) & 1 == 1)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use num_bigint::BigUint;

    use super::*;

    /// An odd number of `bits` bits with the structure, useless for anything else.
    pub(crate) fn broken_modulus(bits: u64) -> Vec<u8> {
        let product = PRIMES.iter().fold(BigUint::from(1_u64), |product, prime| product * prime);
        let power = BigUint::from(GENERATOR).modpow(&BigUint::from(123_456_789_u64), &product);
        let least = BigUint::from(1_u64) << (bits - 1);
        let mut modulus = (&least / &product + 1_u64) * &product + power;
        if !modulus.bit(0) {
            modulus += product;
        }
        assert_eq!(modulus.bits(), bits);
        modulus.to_bytes_be()
    }

    #[test]
    fn the_structure_is_recognised() {
        for bits in [2048, 3072, 4095, 8192] {
            assert!(is_of_the_broken_generator(&broken_modulus(bits)), "{bits}");
        }
    }

    #[test]
    fn nothing_else_is() {
        let mut bytes = vec![0; 256];
        for _ in 0..10_000 {
            aws_lc_rs::rand::fill(&mut bytes).unwrap();
            assert!(!is_of_the_broken_generator(&bytes));
        }
        let broken = BigUint::from_bytes_be(&broken_modulus(2048));
        for prime in PRIMES {
            // A multiple of one of the primes is not a power of anything modulo that prime.
            let multiple = &broken - &broken % prime;
            assert!(!is_of_the_broken_generator(&multiple.to_bytes_be()), "{prime}");
        }
    }
}
