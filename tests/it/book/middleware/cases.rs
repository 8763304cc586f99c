//! The tokens and headers that are sent, and the reason for each difference.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::harness::{Claims, Deployment, Key, now};

/// What is sent, and the expected answers.
pub struct Case {
    pub what: String,
    /// Why only one of them accepts it; `None` if both give the same answer.
    pub why: Option<&'static str>,
    pub sent: Box<dyn Fn(&World) -> Requests>,
}

/// The requests in order, each with the values of its `Authorization` headers. The case is about
/// the last one.
type Requests = Vec<Vec<String>>;

/// Reasons shared by several cases.
mod because {
    pub const JSON: &str = "JSON is UTF-8 without a byte order mark (RFC 8259 section 8.1)";
    pub const NUMBERS: &str = "times are JSON numbers (RFC 7519 section 2)";
    pub const ONCE: &str = "which of the two another reader takes is anyone's guess";
    pub const PADDING: &str = "base64url has no padding in a JWS (RFC 7515 section 2)";
    pub const CRITICAL: &str = "`crit` says that a reader must understand the extension (RFC 7515 section 4.1.11), and none is known here";
    pub const ISSUED_AT: &str =
        "`iat` and `time` say the same, give or take 2 s; another `iat` is another token's";
    pub const AUDIENCE: &str = "it names an audience, and this service is not in it";
    pub const BOUND: &str = "what a token says that it is for is checked";
    pub const KEYS: &str =
        "RSA alone, with PKCS #1, and Ed25519 under its old name are known there";
    pub const NAMES: &str = "only `username` says who it is";
    pub const PROFILE: &str =
        "the registered claims (RFC 7519) say the same: `iss` or `sub`, `iat`, `jti`";
}

/// Every case, in the order in which it is sent.
pub fn cases() -> Vec<Case> {
    let groups = [
        headers(),
        algorithms(),
        key_ids(),
        header_members(),
        times(),
        nonces(),
        issued_at(),
        lifetimes(),
        audiences(),
        names(),
        bindings(),
        users(),
        keys(),
        signatures(),
        encodings(),
        payloads(),
        replays(),
    ];
    groups.into_iter().flatten().collect()
}

fn headers() -> Vec<Case> {
    vec![
        alike("a token", |world| once(world.authorization())),
        alike("no header", |_| vec![vec![]]),
        alike("an empty header", |_| once("")),
        alike("the scheme alone", |_| once("JWT")),
        alike("the token alone", |world| once(world.token())),
        alike("`jwt`", |world| once(format!("jwt {}", world.token()))),
        alike("`Jwt`", |world| once(format!("Jwt {}", world.token()))),
        alike("`Bearer`", |world| once(format!("Bearer {}", world.token()))),
        alike("`Token`", |world| once(format!("Token {}", world.token()))),
        alike("`JWT:`", |world| once(format!("JWT: {}", world.token()))),
        alike("`JWT token=`", |world| once(format!("JWT token={}", world.token()))),
        alike("quotes", |world| once(format!("JWT \"{}\"", world.token()))),
        alike("a tab after the scheme", |world| once(format!("JWT\t{}", world.token()))),
        alike("a comma after the token", |world| once(format!("{},", world.authorization()))),
        alike("text after the token", |world| once(format!("{} x", world.authorization()))),
        alike("two tokens in one header", |world| {
            once(format!("{}, {}", world.authorization(), world.authorization()))
        }),
        alike("two headers", |world| vec![vec![world.authorization(), world.authorization()]]),
        alike("one header twice", |world| vec![vec![world.authorization(); 2]]),
        alike("a header beside another scheme's", |world| {
            vec![vec!["Basic YWxpY2U6eA==".to_owned(), world.authorization()]]
        }),
        differs(
            "two spaces after the scheme",
            "one space or more (RFC 9110 section 11.4)",
            |world| once(format!("JWT  {}", world.token())),
        ),
        differs("an access token of Countersign's as `Bearer`", "there are none there", |world| {
            once(format!("Bearer {}", world.access_token))
        }),
    ]
}

fn algorithms() -> Vec<Case> {
    let mut cases = Vec::new();
    for algorithm in ["RS256", "RS384", "RS512"] {
        cases.push(alike(algorithm, move |world| {
            send(&Claims::of("alice").with_header("alg", algorithm), &world.rsa)
        }));
    }
    for algorithm in ["PS256", "PS384", "PS512"] {
        let sent = move |world: &World| {
            send(&Claims::of("alice").with_header("alg", algorithm), &world.rsa)
        };
        cases.push(differs(&format!("`{algorithm}`"), because::KEYS, sent));
    }
    cases.extend([
        alike("EdDSA", |world| send(&Claims::of("alice"), &world.ed25519)),
        differs("`Ed25519` (RFC 9864)", because::KEYS, |world| {
            send(&Claims::of("alice").with_header("alg", "Ed25519"), &world.ed25519)
        }),
        differs("`ES256`", because::KEYS, |world| send(&Claims::of("elliptic"), &world.p256)),
        differs("`ES384`", because::KEYS, |world| send(&Claims::of("elliptic"), &world.p384)),
    ]);
    for algorithm in ["none", "HS256", "RS1", "rs512", "ES512", ""] {
        let sent = move |world: &World| {
            send(&Claims::of("alice").with_header("alg", algorithm), &world.rsa)
        };
        cases.push(alike(&format!("alg {algorithm:?}"), sent));
    }
    cases.extend([
        alike("an alg of the other key", |world| {
            send(&Claims::of("alice").with_header("alg", "RS512"), &world.ed25519)
        }),
        alike("alg as a number", |world| world.signed(r#"{"alg":512}"#, PAYLOAD)),
        alike("no alg", |world| world.signed(r#"{"typ":"JWT"}"#, PAYLOAD)),
    ]);
    cases
}

fn key_ids() -> Vec<Case> {
    let kid = |world: &World, kid: Value| {
        let header = json!({"alg": "EdDSA", "kid": kid}).to_string();
        world.signed(&header, PAYLOAD)
    };
    vec![
        alike("the kid of the key", move |world| kid(world, world.ed25519.fingerprint().into())),
        alike("the kid of nobody's key", move |world| kid(world, "0f".repeat(32).into())),
        alike("the kid of another user's key", move |world| {
            kid(world, world.bobs.fingerprint().into())
        }),
        alike("a kid in capitals", move |world| {
            kid(world, world.ed25519.fingerprint().to_uppercase().into())
        }),
        alike("a kid that is a name", move |world| kid(world, "laptop".into())),
        alike("an empty kid", move |world| kid(world, "".into())),
        alike("a kid that is a number", move |world| kid(world, 1.into())),
        differs(
            "the `kid` of another key of the same user",
            "the `kid` picks the key, and `explain` says that it does not verify",
            move |world| kid(world, world.rsa.fingerprint().into()),
        ),
        differs("`kid: null`", "a null is as good as nothing", move |world| {
            kid(world, Value::Null)
        }),
    ]
}

fn header_members() -> Vec<Case> {
    let with = |members: &'static str| {
        move |world: &World| world.signed(&format!(r#"{{"alg":"EdDSA",{members}}}"#), PAYLOAD)
    };
    vec![
        alike("typ JWT", with(r#""typ":"JWT""#)),
        alike("typ at+jwt", with(r#""typ":"at+jwt""#)),
        alike("typ as a number", with(r#""typ":1"#)),
        alike("cty", with(r#""cty":"JWT""#)),
        alike("members that nobody knows", with(r#""x":{"y":[1,null]},"z":true"#)),
        alike("b64 true", with(r#""b64":true"#)),
        alike("b64 false", with(r#""b64":false"#)),
        alike("crit without names", with(r#""crit":[]"#)),
        alike("crit null", with(r#""crit":null"#)),
        alike("crit of what nobody knows", with(r#""crit":["x"],"x":1"#)),
        differs("`crit` with `b64: true`", because::CRITICAL, with(r#""crit":["b64"],"b64":true"#)),
        differs("`alg` twice in the header", because::ONCE, with(r#""alg":"EdDSA""#)),
        alike("a header with spaces", |world| world.signed("{ \"alg\" :\n\"EdDSA\" }", PAYLOAD)),
        alike("a header that is an array", |world| world.signed(r#"["EdDSA"]"#, PAYLOAD)),
        alike("a header that is no JSON", |world| world.signed("alg", PAYLOAD)),
        differs("a header behind a byte order mark", because::JSON, |world| {
            world.signed("\u{feff}{\"alg\":\"EdDSA\"}", PAYLOAD)
        }),
    ]
}

fn times() -> Vec<Case> {
    let at = |seconds: i64| {
        move |world: &World| {
            send(&Claims::of("alice").with("time", now() + seconds), &world.ed25519)
        }
    };
    vec![
        alike("a time 15 s ago", at(-15)),
        alike("a time in 15 s", at(15)),
        alike("a time 40 s ago", at(-40)),
        alike("a time in 40 s", at(40)),
        alike(
            "a time with a fraction",
            claims(r#""username":"alice","time":TIME.337586,"nonce":NONCE"#),
        ),
        alike("a time with a point", claims(r#""username":"alice","time":TIME.0,"nonce":NONCE"#)),
        alike(
            "a time with an exponent",
            claims(r#""username":"alice","time":TIME000e-3,"nonce":NONCE"#),
        ),
        alike(
            "a time in milliseconds",
            claims(r#""username":"alice","time":TIME000,"nonce":NONCE"#),
        ),
        alike(
            "a time with 40 digits",
            claims(r#""username":"alice","time":TIMETIMETIMETIME,"nonce":NONCE"#),
        ),
        alike("a negative time", claims(r#""username":"alice","time":-TIME,"nonce":NONCE"#)),
        alike("the time 0", claims(r#""username":"alice","time":0,"nonce":NONCE"#)),
        alike("no time", claims(r#""username":"alice","nonce":NONCE"#)),
        alike("a time that is null", claims(r#""username":"alice","time":null,"nonce":NONCE"#)),
        alike("a time that is true", claims(r#""username":"alice","time":true,"nonce":NONCE"#)),
        differs(
            "`time` twice",
            because::ONCE,
            claims(r#""username":"alice","time":TIME,"time":TIME,"nonce":NONCE"#),
        ),
    ]
}

fn nonces() -> Vec<Case> {
    let nonce = |nonce: &str| claims(&format!(r#""username":"alice","time":TIME,"nonce":{nonce}"#));
    vec![
        alike("a nonce that is a number", nonce("7")),
        alike("a nonce with a fraction", nonce("0.9845574553073804")),
        alike("a nonce with an exponent", nonce("6.02e23")),
        alike("a negative nonce", nonce("-7")),
        alike("a nonce with 30 digits", nonce("123456789012345678901234567890")),
        alike("a nonce with spaces and letters", nonce(r#"" ein Größenwahn \u2603 ""#)),
        alike("a nonce of 3000 characters", nonce(&format!("\"{}\"", "n".repeat(3000)))),
        alike("an empty nonce", nonce(r#""""#)),
        alike("no nonce", claims(r#""username":"alice","time":TIME"#)),
        alike("a nonce that is null", nonce("null")),
        alike("a nonce that is false", nonce("false")),
        differs("a `nonce` that is `true`", "a nonce is text or a number", nonce("true")),
        differs("the `nonce` 0", "a number like any other", nonce("0")),
    ]
}

fn issued_at() -> Vec<Case> {
    let with =
        |claim: &str| claims(&format!(r#""username":"alice","time":TIME,"nonce":NONCE,{claim}"#));
    let later = |world: &World| {
        // Ahead of both clocks as long as the test runs.
        send(&Claims::of("alice").with("time", now() + 10).with("iat", now() + 11), &world.ed25519)
    };
    vec![
        alike("iat beside time", with(r#""iat":TIME"#)),
        alike("iat a second before", |world| {
            send(&Claims::of("alice").with("iat", now() - 1), &world.ed25519)
        }),
        alike("iat with a fraction", with(r#""iat":TIME.0"#)),
        alike("iat an hour later", |world| {
            send(&Claims::of("alice").with("iat", now() + 3600), &world.ed25519)
        }),
        alike("iat as text", with(r#""iat":"today""#)),
        differs("`iat` an hour before `time`", because::ISSUED_AT, |world| {
            send(&Claims::of("alice").with("iat", now() - 3600), &world.ed25519)
        }),
        differs("`iat` as digits in quotes", because::NUMBERS, with(r#""iat":"TIME""#)),
        differs(
            "`iat` a second after `time`, by a clock that is ahead",
            "a clock may be ahead by as much as `time` may",
            later,
        ),
        alike("iat null", with(r#""iat":null"#)),
    ]
}

fn lifetimes() -> Vec<Case> {
    let with = |claim: &'static str, seconds: i64| {
        move |world: &World| send(&Claims::of("alice").with(claim, now() + seconds), &world.ed25519)
    };
    let json =
        |claim: &str| claims(&format!(r#""username":"alice","time":TIME,"nonce":NONCE,{claim}"#));
    vec![
        alike("exp in a minute", with("exp", 60)),
        alike("exp a minute ago", with("exp", -60)),
        alike("nbf a minute ago", with("nbf", -60)),
        alike("nbf in a minute", with("nbf", 60)),
        alike("exp with a fraction", json(r#""exp":4102444800.5"#)),
        alike("exp as text", json(r#""exp":"soon""#)),
        alike("exp true", json(r#""exp":true"#)),
        differs("`exp` as digits in quotes", because::NUMBERS, json(r#""exp":"4102444800""#)),
        differs("`nbf` as digits in quotes", because::NUMBERS, json(r#""nbf":"TIME""#)),
        alike("exp null", json(r#""exp":null"#)),
        alike("nbf null", json(r#""nbf":null"#)),
    ]
}

fn audiences() -> Vec<Case> {
    let audience = |audience: &str| {
        claims(&format!(r#""username":"alice","time":TIME,"nonce":NONCE,"aud":{audience}"#))
    };
    vec![
        alike("another audience", audience(r#""https://elsewhere.test""#)),
        alike("several audiences", audience(r#"["https://elsewhere.test","b"]"#)),
        alike("aud null", audience("null")),
        alike("aud as a number", audience("5")),
        differs("an empty `aud`", because::AUDIENCE, audience(r#""""#)),
        differs("an `aud` without names", because::AUDIENCE, audience("[]")),
        differs(
            "this service as `aud`",
            "`issuer.audience` says what this service is called",
            |world| send(&Claims::of("alice").with("aud", World::AUDIENCE), &world.ed25519),
        ),
    ]
}

fn names() -> Vec<Case> {
    let with =
        |claim: &str| claims(&format!(r#""username":"alice","time":TIME,"nonce":NONCE,{claim}"#));
    vec![
        alike("iss", with(r#""iss":"https://client.example""#)),
        alike("iss as a number", with(r#""iss":1"#)),
        alike("sub", with(r#""sub":"a machine""#)),
        alike("sub of another user", with(r#""sub":"bob""#)),
        alike("jti", with(r#""jti":"x""#)),
        differs("`sub` as a number", because::NAMES, with(r#""sub":1"#)),
        differs("`jti` as a number", because::NAMES, with(r#""jti":1"#)),
        alike("claims that nobody knows", with(r#""scope":"admin","x":{"y":[1,2.5,null,"z"]}"#)),
        differs(
            "`iss`, `iat`, `jti` in place of `username`, `time`, `nonce`",
            because::PROFILE,
            |world| send(&Claims::registered("alice"), &world.ed25519),
        ),
        differs(
            "`iat` in place of `time`",
            because::PROFILE,
            claims(r#""username":"alice","iat":TIME,"nonce":NONCE"#),
        ),
        differs(
            "`jti` in place of `nonce`",
            because::PROFILE,
            claims(r#""username":"alice","time":TIME,"jti":NONCE"#),
        ),
        differs(
            "`sub` in place of `username`",
            because::PROFILE,
            claims(r#""sub":"alice","time":TIME,"nonce":NONCE"#),
        ),
    ]
}

fn bindings() -> Vec<Case> {
    let with = |claim: &'static str, value: &'static str| {
        move |world: &World| send(&Claims::of("alice").with(claim, value), &world.ed25519)
    };
    let body = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:";
    vec![
        alike("htm of the request", with("htm", "GET")),
        alike("htu of the request", with("htu", "http://gateway.test/")),
        alike("a content_digest, which the back end compares", with("content_digest", body)),
        differs("`htm` of another method", because::BOUND, with("htm", "POST")),
        differs("`htu` of another URI", because::BOUND, with("htu", "https://elsewhere.test/")),
        differs(
            "`htq` of another query",
            because::BOUND,
            with("htq", "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFV"),
        ),
        differs("a `content_digest` that is none", because::BOUND, with("content_digest", "x")),
        differs("one of these that is null", because::BOUND, |world| {
            world.signed(HEADER, r#"{"username":"alice","time":TIME,"nonce":NONCE,"htm":null}"#)
        }),
    ]
}

fn users() -> Vec<Case> {
    let of =
        |username: &'static str| move |world: &World| send(&Claims::of(username), &world.ed25519);
    let username = |json: &str| claims(&format!(r#""username":{json},"time":TIME,"nonce":NONCE"#));
    vec![
        alike("an unknown user", of("nobody")),
        alike("a user without keys", of("keyless")),
        alike("a user in capitals", of("ALICE")),
        alike("a user with a space", of(" alice")),
        alike("a user with a line break", of("alice\n")),
        alike("a user of 256 characters", |world| {
            send(&Claims::of(&"a".repeat(256)), &world.ed25519)
        }),
        alike("a user with spaces and letters", of(World::LETTERS)),
        alike("the same letters, put together otherwise", of("Zoe\u{308} 名")),
        alike("a user in escapes", username(r#""\u0061lice""#)),
        alike("an empty user", of("")),
        alike("no user", claims(r#""time":TIME,"nonce":NONCE"#)),
        alike("a user that is null", username("null")),
        alike("a user that is a number", username("1")),
        alike("a user that is an array", username(r#"["alice"]"#)),
        differs("an inactive user", "who is disabled does not pass", of("inactive")),
        differs(
            "`username` twice",
            because::ONCE,
            claims(r#""username":"bob","username":"alice","time":TIME,"nonce":NONCE"#),
        ),
    ]
}

fn keys() -> Vec<Case> {
    let openssl = |username: &'static str| move |world: &World| once(world.by_openssl(username));
    vec![
        alike("an RSA key of 4096 bit", openssl("large")),
        alike("an RSA key with the exponent 3", openssl("three")),
        alike("the newest of ten keys", |world| send(&Claims::of("many"), &world.many[9])),
        alike("the oldest of ten keys, by its kid", |world| {
            send(
                &Claims::of("many").with_header("kid", world.many[0].fingerprint()),
                &world.many[0],
            )
        }),
        differs(
            "the oldest of ten keys of one kind, without its `kid`",
            "a forged token must not cost more than 8 verifications",
            |world| send(&Claims::of("many"), &world.many[0]),
        ),
        differs("an RSA key under 2048 bit", "it can be broken", openssl("small")),
    ]
}

fn signatures() -> Vec<Case> {
    let changed = |change: fn(&mut Vec<u8>)| {
        move |world: &World| {
            let token = Claims::of("alice").with_header("alg", "EdDSA").sealed(|signed| {
                let mut signature = world.ed25519.sign("EdDSA", signed);
                change(&mut signature);
                signature
            });
            once(format!("JWT {token}"))
        }
    };
    let spliced = |part: usize| {
        move |world: &World| {
            let (own, other) =
                (world.token(), Claims::of("alice").with_header("x", 1).sign(&world.ed25519));
            let (mut own, other): (Vec<_>, Vec<_>) =
                (own.split('.').collect(), other.split('.').collect());
            own[part] = other[part];
            once(format!("JWT {}", own.join(".")))
        }
    };
    vec![
        alike("a bit changed", changed(|signature| signature[7] ^= 1)),
        alike("a byte too few", changed(|signature| signature.truncate(63))),
        alike("a byte too many", changed(|signature| signature.push(0))),
        alike("nothing but zeros", changed(|signature| signature.fill(0))),
        alike("no signature", changed(Vec::clear)),
        alike("another user's key", |world| send(&Claims::of("alice"), &world.bobs)),
        alike("another user's key under the kid of the right one", |world| {
            send(&Claims::of("alice").with_header("kid", world.ed25519.fingerprint()), &world.bobs)
        }),
        alike("another token's header", spliced(0)),
        alike("another token's claims", spliced(1)),
        alike("another token's signature", spliced(2)),
    ]
}

fn encodings() -> Vec<Case> {
    let edited = |edit: fn(&str) -> String| {
        move |world: &World| once(format!("JWT {}", edit(&world.token())))
    };
    vec![
        alike("one part", edited(|token| token.replace('.', ""))),
        alike("two parts", edited(|token| token.rsplit_once('.').unwrap().0.to_owned())),
        alike("four parts", edited(|token| format!("{token}.x"))),
        alike("a dot before it", edited(|token| format!(".{token}"))),
        alike("three empty parts", edited(|_| "..".to_owned())),
        alike("a percent sign", edited(|token| format!("{token}%3D"))),
        alike("letters that are no ASCII", edited(|token| format!("{token}é"))),
        alike("one `=` where two belong", edited(|token| format!("{token}="))),
        alike("the alphabet of base64", |world| {
            let payload = filled(r#"{"username":"alice","time":TIME,"nonce":NONCE,"x":"??????"}"#);
            let signed = [HEADER, &payload].map(|part| STANDARD_NO_PAD.encode(part)).join(".");
            assert!(signed.contains('/'), "{signed}");
            world.sealed(&signed)
        }),
        differs("a signature that ends with `==`", because::PADDING, |world| {
            once(format!("{}==", world.authorization()))
        }),
        differs("a header and claims that end with `=`", because::PADDING, |world| {
            let text = filled(PAYLOAD);
            let payload = if text.len().is_multiple_of(3) { format!("{text} ") } else { text };
            let signed = [r#"{"alg":"EdDSA" }"#, &payload].map(|part| URL_SAFE.encode(part));
            assert!(signed.iter().all(|part| part.ends_with('=')), "{signed:?}");
            world.sealed(&signed.join("."))
        }),
    ]
}

fn payloads() -> Vec<Case> {
    vec![
        alike("claims with spaces", |world| {
            world.signed(
                HEADER,
                "{\n  \"username\": \"alice\", \"time\" : TIME, \"nonce\": NONCE }\n",
            )
        }),
        alike("claims of 6 KiB", |world| {
            send(&Claims::of("alice").with("x", "x".repeat(4500)), &world.ed25519)
        }),
        differs(
            "a token of more than 8 KiB",
            "the bound of what is read before anything is proven",
            |world| send(&Claims::of("alice").with("x", "x".repeat(8000)), &world.ed25519),
        ),
        differs("claims behind a byte order mark", because::JSON, |world| {
            world.signed(HEADER, &format!("\u{feff}{PAYLOAD}"))
        }),
        differs("claims in UTF-16", because::JSON, |world| {
            let text: Vec<u8> = filled(PAYLOAD).encode_utf16().flat_map(u16::to_le_bytes).collect();
            world.sealed(&format!(
                "{}.{}",
                URL_SAFE_NO_PAD.encode(HEADER),
                URL_SAFE_NO_PAD.encode(text)
            ))
        }),
        differs(
            "a `nonce` with half of a surrogate pair",
            "it is no text",
            claims(r#""username":"alice","time":TIME,"nonce":"\ud83d""#),
        ),
    ]
}

fn replays() -> Vec<Case> {
    let then = |first: fn(&World, &Claims) -> String, second: fn(&World, &Claims) -> String| {
        move |world: &World| {
            let claims = Claims::of("alice");
            vec![vec![first(world, &claims)], vec![second(world, &claims)]]
        }
    };
    let as_is: fn(&World, &Claims) -> String = |world, claims| claims.authorization(&world.ed25519);
    vec![
        alike("a token again", then(as_is, as_is)),
        alike(
            "the same claims by another key",
            then(as_is, |world, claims| claims.authorization(&world.rsa)),
        ),
        alike(
            "the same claims under another header",
            then(as_is, |world, claims| {
                claims.clone().with_header("x", 1).authorization(&world.ed25519)
            }),
        ),
        alike(
            "the same nonce of another user",
            then(as_is, |world, claims| {
                claims.clone().with("username", "bob").authorization(&world.bobs)
            }),
        ),
        alike(
            "a token after a forged one",
            then(|world, claims| claims.authorization(&world.bobs), as_is),
        ),
        alike(
            "a token after one of another time",
            then(
                |world, claims| {
                    claims.clone().with("time", now() - 3600).authorization(&world.ed25519)
                },
                as_is,
            ),
        ),
        differs(
            "the same `nonce` at another `time`",
            "a nonce is spent once for all times. Who counts within each second has to count on, or draw it at random, as its own clients do",
            then(as_is, |world, claims| {
                claims.clone().with("time", now() - 3).authorization(&world.ed25519)
            }),
        ),
        differs("the `nonce` `\"5\"` after `5`", "a nonce counts by its text", |world| {
            let payload = |nonce: &str| {
                filled(&format!(r#"{{"username":"alice","time":TIME,"nonce":{nonce}}}"#))
            };
            [payload("5"), payload(r#""5""#)]
                .iter()
                .flat_map(|payload| world.signed(HEADER, payload))
                .collect()
        }),
        differs(
            "the `nonce` `6.0` after `6`",
            "a nonce counts by its digits as they stand, and clients that send numbers write them all",
            |world| {
                let time = now();
                let payload = |nonce: &str| {
                    format!(r#"{{"username":"alice","time":{time},"nonce":{nonce}}}"#)
                };
                [payload("6"), payload("6.0")]
                    .iter()
                    .flat_map(|payload| world.signed(HEADER, payload))
                    .collect()
            },
        ),
    ]
}

const HEADER: &str = r#"{"alg":"EdDSA"}"#;
const PAYLOAD: &str = r#"{"username":"alice","time":TIME,"nonce":NONCE}"#;

/// Replaces `TIME` in `text` by this second, and `NONCE` by an unused nonce.
fn filled(text: &str) -> String {
    text.replace("TIME", &now().to_string()).replace("NONCE", &nonce())
}

/// An unused nonce as a JSON string.
fn nonce() -> String {
    let mut bytes = [0; 12];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(bytes))
}

/// A token whose payload has these members, after [`filled`].
fn claims(members: &str) -> impl Fn(&World) -> Requests + use<> {
    let payload = format!("{{{members}}}");
    move |world| world.signed(HEADER, &payload)
}

fn alike(what: &str, sent: impl Fn(&World) -> Requests + 'static) -> Case {
    Case { what: what.to_owned(), why: None, sent: Box::new(sent) }
}

fn differs(what: &str, why: &'static str, sent: impl Fn(&World) -> Requests + 'static) -> Case {
    Case { what: what.to_owned(), why: Some(why), sent: Box::new(sent) }
}

fn send(claims: &Claims, key: &Key) -> Requests {
    once(claims.authorization(key))
}

fn once(authorization: impl Into<String>) -> Requests {
    vec![vec![authorization.into()]]
}

/// Names that both know, and their keys.
pub struct World {
    pub deployment: Deployment,
    pub users: Vec<User>,
    ed25519: Key,
    rsa: Key,
    bobs: Key,
    p256: Key,
    p384: Key,
    many: Vec<Key>,
    access_token: String,
}

/// A user of the middleware, and a principal here.
pub struct User {
    pub name: &'static str,
    pub is_active: bool,
    /// In PEM, if the middleware can read the key.
    pub keys_there: Vec<String>,
}

impl World {
    const AUDIENCE: &'static str = "https://countersign.test";
    const LETTERS: &'static str = "Zo\u{eb} 名";

    pub fn new() -> Self {
        // Some tokens were signed before the service starts.
        let deployment =
            Deployment::new().set("nonce.fence", "off").set("issuer.audience", Self::AUDIENCE);
        let mut world = Self {
            deployment,
            users: Vec::new(),
            ed25519: Key::ed25519(),
            rsa: Key::rsa(),
            bobs: Key::ed25519(),
            p256: Key::p256(),
            p384: Key::p384(),
            many: (0..10).map(|_| Key::ed25519()).collect(),
            access_token: String::new(),
        };
        let pems = |keys: &[&Key]| keys.iter().map(|key| key.public_pem()).collect::<Vec<_>>();
        let (alices, bobs) = (pems(&[&world.ed25519, &world.rsa]), pems(&[&world.bobs]));
        let (many, elliptic) =
            (pems(&world.many.iter().collect::<Vec<_>>()), pems(&[&world.p256, &world.p384]));
        world.add("alice", &alices);
        world.add("bob", &bobs);
        world.add("keyless", &[]);
        world.add("inactive", &alices);
        world.add(Self::LETTERS, &alices);
        world.add("many", &many);
        world.deployment.done(&["principal", "disable", "inactive"]);
        world.users[3].is_active = false;
        // The middleware cannot read such keys.
        world.add("elliptic", &elliptic);
        world.users[6].keys_there.clear();
        for (name, options) in
            [("small", ["-F4", "1024"]), ("large", ["-F4", "4096"]), ("three", ["-3", "2048"])]
        {
            let file = world.deployment.dir.path().join(name);
            openssl(Command::new("openssl").args(["genrsa", "-out"]).arg(&file).args(options));
            let public =
                openssl(Command::new("openssl").args(["rsa", "-pubout", "-in"]).arg(&file));
            world.add(name, &[String::from_utf8(public).unwrap()]);
        }
        world.access_token = world.deployment.tokens("alice").access;
        world
    }

    /// Adds a name with these keys on both sides. A key that one side refuses exists on the other
    /// only.
    fn add(&mut self, name: &'static str, keys: &[String]) {
        self.deployment.done(&["principal", "add", name]);
        for key in keys {
            let file = self.deployment.file("public.pem", key);
            let ran = self.deployment.run(&["key", "add", name, file.to_str().unwrap()]);
            assert_eq!(ran.code == 0, name != "small", "{name}: {ran:?}");
        }
        self.users.push(User { name, is_active: true, keys_there: keys.to_vec() });
    }

    /// A fresh token of alice's.
    fn token(&self) -> String {
        Claims::of("alice").sign(&self.ed25519)
    }

    fn authorization(&self) -> String {
        format!("JWT {}", self.token())
    }

    /// Header and payload exactly as given, except for what [`filled`] replaces; signed by alice.
    fn signed(&self, header: &str, payload: &str) -> Requests {
        self.sealed(&format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(filled(payload))
        ))
    }

    fn sealed(&self, signed: &str) -> Requests {
        let signature = self.ed25519.sign("EdDSA", signed.as_bytes());
        once(format!("JWT {signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Signed with the RSA key that OpenSSL made for that user.
    fn by_openssl(&self, username: &str) -> String {
        let token = Claims::of(username).with_header("alg", "RS512").sealed(|signed| {
            let message = self.deployment.dir.path().join("signed");
            std::fs::write(&message, signed).unwrap();
            let key = self.deployment.dir.path().join(username);
            openssl(
                Command::new("openssl").args(["dgst", "-sha512", "-sign"]).arg(key).arg(message),
            )
        });
        format!("JWT {token}")
    }
}

fn openssl(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output.stdout
}
