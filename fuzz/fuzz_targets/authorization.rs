//! The header with the credentials, one value per line. The token that the engine extracts is
//! parsed, too.
#![no_main]

use countersign::{
    domain::{
        auth_request::{AuthRequest, Credentials, Door},
        decision::AuthMethod,
        token::{UntrustedAccessToken, UntrustedToken},
    },
    engine::verify::fuzzing::credential,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let values: Vec<&str> = text.split('\n').collect();
    let credentials =
        values.iter().fold(Credentials::None, |known, value| known.and_another(value));
    // The same in the application's own header, if ours has another name.
    for (auth_request, is_ours) in [
        (AuthRequest::alone(Door::Http, credentials), true),
        (
            AuthRequest {
                authorization: credentials,
                ..AuthRequest::alone(Door::Http, Credentials::None)
            },
            false,
        ),
    ] {
        let Ok((method, token)) = credential("JWT", &auth_request) else { continue };
        assert!(values.len() == 1 && text.contains(token) && !token.starts_with(' '));
        let scheme = text
            .trim_matches([' ', '\t'])
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        match method {
            AuthMethod::SelfSigned => {
                assert!(is_ours && scheme == "jwt");
                let _ = UntrustedToken::parse(token);
            }
            AuthMethod::AccessToken => {
                assert_eq!(scheme, "bearer");
                let _ = UntrustedAccessToken::parse(token);
            }
        }
    }
});
