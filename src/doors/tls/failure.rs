//! Why a handshake failed, derived from the TLS library's error.

use std::io::{self, ErrorKind};

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use crate::{roots::peers::Unfit, telemetry::connections::HandshakeFailure as Failure};

/// The kind of `error`, which ended a handshake.
pub(in crate::doors) fn failure(error: &io::Error) -> Failure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => of_tls(error),
        None => match error.kind() {
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe => Failure::Closed,
            _ => Failure::Other,
        },
    }
}

fn of_tls(error: &Error) -> Failure {
    match error {
        Error::NoCertificatesPresented => Failure::NoCertificate,
        Error::InvalidCertificate(certificate) => match Unfit::of(error) {
            Some(Unfit::Authority) => Failure::Authority,
            Some(Unfit::SignsOnly) => Failure::SignsOnly,
            Some(Unfit::OldVersion) => Failure::OldVersion,
            None => of_certificate(certificate),
        },
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => Failure::NotTls,
        Error::PeerIncompatible(_) => Failure::Incompatible,
        _ => Failure::Other,
    }
}

fn of_certificate(error: &CertificateError) -> Failure {
    match error {
        CertificateError::UnknownIssuer => Failure::UnknownIssuer,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Failure::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Failure::NotYetValid
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            Failure::WrongPurpose
        }
        CertificateError::BadSignature => Failure::BadSignature,
        _ => Failure::BadCertificate,
    }
}

fn of_alert(alert: AlertDescription) -> Failure {
    match alert {
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown => Failure::RefusedByClient,
        AlertDescription::ProtocolVersion
        | AlertDescription::HandshakeFailure
        | AlertDescription::InsufficientSecurity
        | AlertDescription::NoApplicationProtocol => Failure::Incompatible,
        AlertDescription::CloseNotify | AlertDescription::UserCanceled => Failure::Closed,
        _ => Failure::Other,
    }
}

#[cfg(test)]
mod tests {
    use rustls::PeerIncompatible;

    use super::*;

    #[test]
    fn errors_are_told_apart() {
        let certificate = |error: CertificateError| Error::InvalidCertificate(error);
        for (error, expected) in [
            (Error::NoCertificatesPresented, Failure::NoCertificate),
            (certificate(CertificateError::UnknownIssuer), Failure::UnknownIssuer),
            (certificate(CertificateError::Expired), Failure::Expired),
            (certificate(CertificateError::NotValidYet), Failure::NotYetValid),
            (certificate(CertificateError::InvalidPurpose), Failure::WrongPurpose),
            (certificate(CertificateError::BadSignature), Failure::BadSignature),
            (certificate(CertificateError::BadEncoding), Failure::BadCertificate),
            (Unfit::Authority.into(), Failure::Authority),
            (Unfit::SignsOnly.into(), Failure::SignsOnly),
            (Unfit::OldVersion.into(), Failure::OldVersion),
            (Error::AlertReceived(AlertDescription::UnknownCA), Failure::RefusedByClient),
            (Error::AlertReceived(AlertDescription::ProtocolVersion), Failure::Incompatible),
            (Error::AlertReceived(AlertDescription::CloseNotify), Failure::Closed),
            (
                Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
                Failure::Incompatible,
            ),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), Failure::NotTls),
            (Error::DecryptError, Failure::Other),
        ] {
            let said = error.to_string();
            assert_eq!(failure(&io::Error::new(ErrorKind::InvalidData, error)), expected, "{said}");
        }
        assert_eq!(failure(&ErrorKind::UnexpectedEof.into()), Failure::Closed);
        assert_eq!(failure(&ErrorKind::OutOfMemory.into()), Failure::Other);
    }
}
