//! What is visible in a signature without any key. Only for the log and for explanations: it
//! decides nothing.

use std::fmt;

use crate::domain::algorithm::{Algorithm, KeyFamily};

/// Why no key can have made a signature, judging by its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureFault {
    algorithm: Algorithm,
    length: usize,
    expected: usize,
    is_der: bool,
}

impl SignatureFault {
    /// What is wrong with the format of `signature`; `None` if nothing is. RSA signatures are not
    /// checked: their length depends on the key.
    pub(super) fn of(algorithm: Algorithm, signature: &[u8]) -> Option<Self> {
        let expected = match algorithm.family() {
            KeyFamily::Rsa => return None,
            KeyFamily::Ed25519 | KeyFamily::P256 => 64,
            KeyFamily::P384 => 96,
        };
        let is_der = algorithm != Algorithm::EdDsa && is_der_pair(signature);
        (signature.len() != expected).then_some(Self {
            algorithm,
            length: signature.len(),
            expected,
            is_der,
        })
    }
}

impl fmt::Display for SignatureFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { algorithm, length, expected, is_der } = self;
        write!(f, "a signature of {length} bytes; {algorithm} has {expected}")?;
        if *is_der {
            f.write_str(": it is ASN.1 DER, your library has an option for IEEE P1363 (r and s, one behind the other)")?;
        }
        Ok(())
    }
}

/// Whether this is a DER SEQUENCE of two INTEGERs: ECDSA signatures have this format in X9.62, and
/// most libraries produce it by default.
fn is_der_pair(signature: &[u8]) -> bool {
    let Ok(sequence) = <der::asn1::AnyRef<'_> as der::Decode>::from_der(signature) else {
        return false;
    };
    let pair = sequence.sequence(|fields| {
        let r: der::asn1::UintRef<'_> = der::Decode::decode(fields)?;
        let s: der::asn1::UintRef<'_> = der::Decode::decode(fields)?;
        Ok((r, s))
    });
    pair.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_in_asn1_is_called_so() {
        let der = [&[0x30, 0x44, 0x02, 0x20][..], &[0x11; 32], &[0x02, 0x20], &[0x22; 32]].concat();
        let fault = SignatureFault::of(Algorithm::Es256, &der).unwrap().to_string();
        assert!(fault.contains("70 bytes; ES256 has 64: it is ASN.1 DER"), "{fault}");
        assert_eq!(SignatureFault::of(Algorithm::Es256, &[1; 64]), None);
        let fault = SignatureFault::of(Algorithm::EdDsa, &[1; 63]).unwrap().to_string();
        assert_eq!(fault, "a signature of 63 bytes; EdDSA has 64");
        assert_eq!(SignatureFault::of(Algorithm::Rs256, &[1; 63]), None);
    }
}
