//! Which peers are accepted on TLS connections: those with a certificate signed by a trusted
//! authority, as usual, and those that present one of the trusted certificates itself.
//!
//! `openssl req -x509` creates a certificate that is root and leaf in one (CA:TRUE). OpenSSL
//! accepts it as a peer's certificate; webpki refuses every CA certificate there. Here it is
//! accepted if the peer presents exactly, byte for byte, a trusted certificate. That weakens
//! nothing: the holder of its key could sign a certificate for any name and purpose. Everything
//! else is still verified: the name of a server, the validity period, the purpose of the
//! certificate, and the proof that the peer has its key.
//!
//! A certificate with CA:FALSE is trusted only as itself, not as an authority.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ExtendedKeyPurpose,
    OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{
        WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_cert::{
    Certificate, TbsCertificate,
    der::{Decode, oid::ObjectIdentifier},
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, NameConstraints, SubjectAltName},
};

/// Extended key usages (RFC 5280, section 4.2.1.12).
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// The remedy if a peer presents a CA certificate as its own.
pub const CURE: &str = "trust exactly this certificate, or give the peer one with `basicConstraints=critical,CA:FALSE`";

/// Why a certificate is refused, if the library's error would only be the name of a variant.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is a CA certificate, and not itself trusted.
    #[error(
        "the peer's own certificate is that of an authority (CA:TRUE), and not one of those that are trusted; {CURE}"
    )]
    Authority,
    /// It is trusted, but only for signing others.
    #[error(
        "the peer's own certificate is that of an authority (CA:TRUE), and its key usage or name constraints leave it to sign others; \
         make one for the peer"
    )]
    SignsOnly,
    /// It is X.509 version 1 or 2.
    #[error(
        "the certificate is of X.509 version 1, which `openssl x509 -req` makes without `-extfile`; make it again with `openssl req -x509`"
    )]
    OldVersion,
}

/// The library prints errors of other types with `Debug`.
impl fmt::Debug for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Unfit {
    /// Extracts the reason from `error`.
    pub fn of(error: &Error) -> Option<Self> {
        let Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) = error else {
            return None;
        };
        if let Some(unfit) = cause.downcast_ref::<Self>() {
            return Some(*unfit);
        }
        match cause.downcast_ref::<webpki::Error>()? {
            webpki::Error::CaUsedAsEndEntity => Some(Self::Authority),
            webpki::Error::UnsupportedCertVersion => Some(Self::OldVersion),
            _ => None,
        }
    }
}

impl From<Unfit> for Error {
    fn from(unfit: Unfit) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(unfit))))
    }
}

/// Verifies servers against `trusted`.
pub(super) fn servers(
    trusted: &[CertificateDer<'static>],
) -> Result<Arc<dyn ServerCertVerifier>, VerifierBuilderError> {
    let provider = aws_lc_rs::default_provider();
    let algorithms = provider.signature_verification_algorithms;
    let by_authorities = match authorities(trusted) {
        Some(store) => Some(
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::new(provider))
                .build()?,
        ),
        None => None,
    };
    Ok(Arc::new(Servers { trusted: Trusted(trusted.into()), by_authorities, algorithms }))
}

/// Verifies clients against `trusted`. A client without a certificate is refused. Clients do not
/// receive the names of the trusted authorities: some would then withhold a certificate that is
/// trusted itself.
pub fn clients(
    trusted: &[CertificateDer<'static>],
) -> Result<Arc<dyn ClientCertVerifier>, VerifierBuilderError> {
    let provider = aws_lc_rs::default_provider();
    let algorithms = provider.signature_verification_algorithms;
    let by_authorities = match authorities(trusted) {
        Some(store) => {
            let builder =
                WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::new(provider));
            Some(builder.clear_root_hint_subjects().build()?)
        }
        None => None,
    };
    Ok(Arc::new(Clients { trusted: Trusted(trusted.into()), by_authorities, algorithms }))
}

/// Those that may sign others; `None` if there are none.
fn authorities(trusted: &[CertificateDer<'static>]) -> Option<RootCertStore> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(
        trusted.iter().filter(|certificate| may_sign_others(certificate)).cloned(),
    );
    (!store.is_empty()).then_some(store)
}

/// False for CA:FALSE, which the library does not check in trust anchors. Older certificates do not
/// have the extension.
fn may_sign_others(certificate: &CertificateDer<'_>) -> bool {
    let Ok(certificate) = Certificate::from_der(certificate) else { return true };
    !matches!(certificate.tbs_certificate.get::<BasicConstraints>(), Ok(Some((_, constraints))) if !constraints.ca)
}

#[derive(Debug)]
struct Servers {
    trusted: Trusted,
    by_authorities: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Clients {
    trusted: Trusted,
    by_authorities: Option<Arc<dyn ClientCertVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Certificates that a peer may present as its own.
struct Trusted(Arc<[CertificateDer<'static>]>);

impl fmt::Debug for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.0.len())
    }
}

impl Trusted {
    /// Checks the peer's `own` certificate again after it was refused with `refusal`: accepts it if
    /// it is one of these, and valid for `purpose` now.
    fn reconsider(
        &self,
        own: &CertificateDer<'_>,
        purpose: ObjectIdentifier,
        now: UnixTime,
        refusal: Error,
    ) -> Result<Certificate, Error> {
        // Do not parse any certificate that is not trusted.
        if !self.0.iter().any(|trusted| trusted == own) {
            return Err(refusal);
        }
        let certificate = Certificate::from_der(own).map_err(|_| CertificateError::BadEncoding)?;
        is_valid_at(&certificate.tbs_certificate, now)?;
        is_for(&certificate.tbs_certificate, purpose)?;
        Ok(certificate)
    }
}

fn is_valid_at(certificate: &TbsCertificate, now: UnixTime) -> Result<(), Error> {
    let moment = |time: x509_cert::time::Time| {
        UnixTime::since_unix_epoch(Duration::from_secs(time.to_unix_duration().as_secs()))
    };
    let (not_before, not_after) =
        (moment(certificate.validity.not_before), moment(certificate.validity.not_after));
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    Ok(())
}

/// The key usage of a dedicated authority allows signing certificates and nothing else.
fn is_for(certificate: &TbsCertificate, purpose: ObjectIdentifier) -> Result<(), Error> {
    let unreadable = |_| CertificateError::BadEncoding;
    let usage = certificate.get::<KeyUsage>().map_err(unreadable)?;
    let may_shake_hands = usage.is_none_or(|(_, usage)| {
        usage.digital_signature() || usage.key_encipherment() || usage.key_agreement()
    });
    let is_constrained = certificate.get::<NameConstraints>().map_err(unreadable)?.is_some();
    if !may_shake_hands || is_constrained {
        return Err(Unfit::SignsOnly.into());
    }
    match certificate.get::<ExtendedKeyUsage>().map_err(unreadable)? {
        Some((_, purposes)) if !purposes.0.contains(&purpose) => {
            let required = if purpose == SERVER_AUTH {
                ExtendedKeyPurpose::ServerAuth
            } else {
                ExtendedKeyPurpose::ClientAuth
            };
            let presented = purposes.0.iter().map(shown).collect();
            Err(CertificateError::InvalidPurposeContext { required, presented }.into())
        }
        Some(_) | None => Ok(()),
    }
}

fn shown(purpose: &ObjectIdentifier) -> ExtendedKeyPurpose {
    match *purpose {
        SERVER_AUTH => ExtendedKeyPurpose::ServerAuth,
        CLIENT_AUTH => ExtendedKeyPurpose::ClientAuth,
        other => {
            ExtendedKeyPurpose::Other(other.arcs().filter_map(|arc| arc.try_into().ok()).collect())
        }
    }
}

/// Checks the alternative names, as usual. Without any, checks the common name: other clients
/// accept that from `openssl req -x509 -subj /CN=redis.internal`, and this certificate is trusted
/// itself.
fn is_named(
    own: &CertificateDer<'_>,
    certificate: &TbsCertificate,
    name: &ServerName<'_>,
) -> Result<(), Error> {
    let refusal = match verify_server_name(&ParsedCertificate::try_from(own)?, name) {
        Ok(()) => return Ok(()),
        Err(refusal) => refusal,
    };
    let has_names =
        certificate.get::<SubjectAltName>().map_err(|_| CertificateError::BadEncoding)?.is_some();
    let mut common_names = certificate
        .subject
        .0
        .iter()
        .flat_map(|part| part.0.iter())
        .filter(|part| part.oid == COMMON_NAME);
    let (Some(common_name), None, false) = (common_names.next(), common_names.next(), has_names)
    else {
        return Err(refusal);
    };
    let common_name = std::str::from_utf8(common_name.value.value()).unwrap_or_default();
    let is_it = match name {
        ServerName::DnsName(name) => name.as_ref().eq_ignore_ascii_case(common_name),
        ServerName::IpAddress(address) => common_name.parse() == Ok(IpAddr::from(*address)),
        _ => false,
    };
    if is_it { Ok(()) } else { Err(refusal) }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refusal = match &self.by_authorities {
            Some(authorities) => {
                match authorities.verify_server_cert(own, intermediates, name, ocsp_response, now) {
                    Ok(verified) => return Ok(verified),
                    Err(refusal) => Unfit::of(&refusal).map_or(refusal, Into::into),
                }
            }
            None => CertificateError::UnknownIssuer.into(),
        };
        let certificate = self.trusted.reconsider(own, SERVER_AUTH, now, refusal)?;
        is_named(own, &certificate.tbs_certificate, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let refusal = match &self.by_authorities {
            Some(authorities) => match authorities.verify_client_cert(own, intermediates, now) {
                Ok(verified) => return Ok(verified),
                Err(refusal) => refusal,
            },
            None => CertificateError::UnknownIssuer.into(),
        };
        self.trusted.reconsider(own, CLIENT_AUTH, now, refusal)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
