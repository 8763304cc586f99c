//! The certificates were made with OpenSSL 3.0.19 as the comments show, each with `-newkey ec
//! -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500`; their keys were deleted.

use ::aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection,
    pki_types::{PrivatePkcs8KeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::*;

/// `req -x509 -subj /CN=peer -addext subjectAltName=DNS:localhost,IP:127.0.0.1`: CA:TRUE.
const OWN: &str = include_str!("own.pem");
/// Like `OWN`, with another key.
const TWIN: &str = include_str!("twin.pem");
/// `req -x509 -subj /CN=redis.internal`: CA:TRUE, without alternative names.
const COMMON_NAME_ONLY: &str = include_str!("common_name.pem");
/// Like `OWN`, with `-addext basicConstraints=CA:FALSE`.
const PLAIN: &str = include_str!("plain.pem");
/// Like `OWN`, with `-addext keyUsage=critical,keyCertSign,cRLSign`.
const SIGNS_ONLY: &str = include_str!("signs_only.pem");
/// Like `OWN`, with `-addext nameConstraints=critical,permitted;DNS:example.com`.
const CONSTRAINED: &str = include_str!("constrained.pem");
/// Like `OWN`, with `-addext extendedKeyUsage=clientAuth`.
const FOR_CLIENTS: &str = include_str!("for_clients.pem");
/// `x509 -req -CA own.pem` with the names of `OWN`: signed by it.
const LEAF: &str = include_str!("leaf.pem");
/// Like `LEAF`, with `-CA plain.pem`.
const LEAF_OF_PLAIN: &str = include_str!("leaf_of_plain.pem");
/// `x509 -req -signkey` without extensions: version 1.
const OLD: &str = include_str!("old.pem");

/// December 2026, and a century later.
const NOW: u64 = 1_796_083_200;
const TOO_LATE: u64 = NOW + 101 * 366 * 86_400;
const TOO_EARLY: u64 = 1_700_000_000;

/// The peer that is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// A server with this name.
    Server(&'static str),
    Client,
}

const BOTH: [Peer; 2] = [Peer::Server("localhost"), Peer::Client];

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// Verifies the peer's `own` certificate, as if it had proven possession of the key.
fn verify(trusted: &[&str], peer: Peer, own: &str, at: u64) -> Result<(), Error> {
    let trusted: Vec<_> = trusted.iter().map(|pem| certificate(pem)).collect();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(at));
    match peer {
        Peer::Client => {
            clients(&trusted).unwrap().verify_client_cert(&certificate(own), &[], now).map(drop)
        }
        Peer::Server(name) => {
            let name = ServerName::try_from(name).unwrap();
            servers(&trusted)
                .unwrap()
                .verify_server_cert(&certificate(own), &[], &name, &[], now)
                .map(drop)
        }
    }
}

fn refused(trusted: &[&str], peer: Peer, own: &str, at: u64) -> Error {
    verify(trusted, peer, own, at).expect_err("refused")
}

#[test]
fn what_is_trusted_is_taken_as_a_peer_s_own_and_so_is_what_it_signs() {
    for peer in BOTH {
        for (trusted, own) in [(OWN, OWN), (PLAIN, PLAIN), (OWN, LEAF), (LEAF, LEAF)] {
            assert_eq!(verify(&[trusted], peer, own, NOW), Ok(()), "{peer:?} {own}");
            assert_eq!(
                verify(&[TWIN, trusted], peer, own, NOW),
                Ok(()),
                "{peer:?}, behind another of the same name: {own}"
            );
        }
    }
    assert_eq!(verify(&[OWN], Peer::Server("127.0.0.1"), OWN, NOW), Ok(()));
}

#[test]
fn another_authority_is_refused_with_the_cure_whatever_its_name() {
    for peer in BOTH {
        for own in [TWIN, SIGNS_ONLY] {
            let error = refused(&[OWN], peer, own, NOW);
            assert_eq!(Unfit::of(&error), Some(Unfit::Authority), "{peer:?}: {error}");
            assert!(peer == Peer::Client || error.to_string().contains(CURE), "{error}");
        }
    }
}

#[test]
fn what_says_that_it_signs_no_others_does_not() {
    for peer in BOTH {
        for trusted in [&[PLAIN][..], &[OWN, PLAIN]] {
            let error = refused(trusted, peer, LEAF_OF_PLAIN, NOW);
            assert!(matches!(error, Error::InvalidCertificate(_)), "{peer:?}: {error}");
        }
        assert_eq!(
            verify(&[PLAIN], peer, LEAF, NOW),
            Err(CertificateError::UnknownIssuer.into()),
            "{peer:?}"
        );
    }
}

#[test]
fn time_counts() {
    for peer in BOTH {
        let error = refused(&[OWN], peer, OWN, TOO_LATE);
        assert!(
            matches!(error, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })),
            "{peer:?}: {error}"
        );
        let error = refused(&[OWN], peer, OWN, TOO_EARLY);
        assert!(
            matches!(error, Error::InvalidCertificate(CertificateError::NotValidYetContext { .. })),
            "{peer:?}: {error}"
        );
    }
}

/// The second check does not depend on the order of the library's checks.
#[test]
fn time_counts_in_the_second_look_by_itself() {
    let trusted = Trusted([certificate(OWN)].into());
    for (at, is_valid) in [(TOO_EARLY, false), (NOW, true), (TOO_LATE, false)] {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(at));
        let refusal = CertificateError::UnknownIssuer.into();
        assert_eq!(
            trusted.reconsider(&certificate(OWN), SERVER_AUTH, now, refusal).is_ok(),
            is_valid,
            "{at}"
        );
    }
}

#[test]
fn the_name_of_a_server_counts() {
    for (own, wrong) in [
        (OWN, "other.example"),
        (OWN, "peer"),
        (OWN, "127.0.0.2"),
        (COMMON_NAME_ONLY, "other.example"),
    ] {
        let error = refused(&[own], Peer::Server(wrong), own, NOW);
        assert!(
            matches!(
                error,
                Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })
            ),
            "{wrong}: {error}"
        );
    }
    assert_eq!(
        verify(&[COMMON_NAME_ONLY], Peer::Server("Redis.internal"), COMMON_NAME_ONLY, NOW),
        Ok(())
    );
    assert_eq!(verify(&[COMMON_NAME_ONLY], Peer::Client, COMMON_NAME_ONLY, NOW), Ok(()));
}

#[test]
fn what_only_signs_others_is_no_peer_s_own() {
    for peer in BOTH {
        for own in [SIGNS_ONLY, CONSTRAINED] {
            let error = refused(&[own], peer, own, NOW);
            assert_eq!(Unfit::of(&error), Some(Unfit::SignsOnly), "{peer:?}: {error}");
        }
    }
}

#[test]
fn the_purpose_counts() {
    assert_eq!(verify(&[FOR_CLIENTS], Peer::Client, FOR_CLIENTS, NOW), Ok(()));
    let error = refused(&[FOR_CLIENTS], Peer::Server("localhost"), FOR_CLIENTS, NOW);
    assert!(
        error.to_string().contains("server authentication, allows client authentication"),
        "{error}"
    );
}

#[test]
fn version_1_is_named() {
    for peer in BOTH {
        let error = refused(&[OWN], peer, OLD, NOW);
        assert_eq!(Unfit::of(&error), Some(Unfit::OldVersion), "{peer:?}: {error}");
    }
}

/// A copy of a trusted certificate is useless without its key.
#[test]
fn the_peer_has_to_have_the_key() {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
        .unwrap();
    let key = provider
        .key_provider
        .load_private_key(PrivatePkcs8KeyDer::from(key.as_ref().to_vec()).into())
        .unwrap();
    let shown = Arc::new(CertifiedKey::new(vec![certificate(OWN)], key));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap();
        let client = client
            .dangerous()
            .with_custom_certificate_verifier(servers(&[certificate(OWN)]).unwrap())
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap();
        let server = server
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&shown))));
        let mut client =
            ClientConnection::new(Arc::new(client), ServerName::try_from("localhost").unwrap())
                .unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let error = loop {
            let mut flight = Vec::new();
            client.write_tls(&mut flight).unwrap();
            server.read_tls(&mut flight.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            let mut flight = Vec::new();
            assert!(server.write_tls(&mut flight).unwrap() > 0, "the handshake is over");
            client.read_tls(&mut flight.as_slice()).unwrap();
            if let Err(error) = client.process_new_packets() {
                break error;
            }
        };
        assert_eq!(error, CertificateError::BadSignature.into(), "{version:?}");
    }
}
