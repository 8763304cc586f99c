//! Tokens of common libraries pass exactly as the libraries make them, and the page about them says
//! what they make.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::hold;
use crate::harness::{Countersign, Deployment, Key, Ran, now, peer, program, repository};

const PAGE: &str = "clients/libraries.md";
/// `oauth4webapi` makes a client assertion for this audience.
const AUDIENCE: &str = "https://countersign.test";
const ALGORITHMS: [&str; 10] =
    ["Ed25519", "EdDSA", "ES256", "ES384", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];

const PYTHON: [&str; 8] = [
    "PyJWT",
    "joserfc",
    "Authlib",
    "jwcrypto",
    "cryptojwt",
    "jwskate",
    "python-jose",
    "google-auth",
];
const NODE: [&str; 8] =
    ["jose", "jsonwebtoken", "fast-jwt", "node-jose", "jsrsasign", "jws", "njwt", "oauth4webapi"];

/// One token for each algorithm that a library knows.
struct Signed {
    library: &'static str,
    version: String,
    tokens: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_pass_as_libraries_make_them() {
    let deployment = Deployment::new().set("issuer.audience", AUDIENCE);
    deployment.done(&["principal", "add", "alice"]);
    let keys = [Key::ed25519(), Key::p256(), Key::p384(), Key::rsa()];
    for key in &keys {
        deployment.add_key("alice", key);
    }
    let countersign = deployment.serve();
    let [python, node] = [("Python", &PYTHON), ("Node.js", &NODE)];
    let mut rows = String::from(
        "| library | language | signs with | adds by itself |\n| --- | --- | --- | --- |\n",
    );
    for (language, libraries) in [python, node] {
        for library in libraries {
            let signed = sign(language, library, &keys);
            assert!(!signed.tokens.is_empty(), "{library} signs with nothing");
            for token in &signed.tokens {
                passes(&countersign, library, token).await;
            }
            signed.describe(language, &mut rows);
        }
    }
    hold(PAGE, "the libraries", &rows);
}

async fn passes(countersign: &Countersign, library: &str, token: &str) {
    let answer = countersign.decide(&format!("JWT {token}")).await;
    let [header, claims] = parts(token);
    let passed = (answer.status, answer.header("x-auth-username"));
    assert_eq!(passed, (200, Some("alice")), "{library}: {header} {claims}: {answer:?}");
}

fn sign(language: &str, library: &'static str, keys: &[Key; 4]) -> Signed {
    let [ed25519, p256, p384, rsa] = keys;
    let wanted: Vec<Value> = ALGORITHMS
        .into_iter()
        .map(|algorithm| {
            let key = match algorithm {
                "EdDSA" | "Ed25519" => ed25519,
                "ES256" => p256,
                "ES384" => p384,
                _ => rsa,
            };
            let claims = json!({ "username": "alice", "time": now(), "nonce": format!("{library} {algorithm}") });
            json!({ "algorithm": algorithm, "pem": key.private_pem(), "claims": claims })
        })
        .collect();
    let scripts = repository().join("tests/it/signers");
    let (mut command, version) = if language == "Python" {
        let python = peer("signers/bin/python");
        let asked = format!("import importlib.metadata as m; print(m.version('{library}'))");
        let version = Ran::of(Command::new(&python).args(["-c", &asked])).stdout;
        let mut command = Command::new(python);
        command.arg(scripts.join("sign.py"));
        (command, version)
    } else {
        let folder = peer("node_signers");
        let package =
            std::fs::read(folder.join("node_modules").join(library).join("package.json")).unwrap();
        let package: Value = serde_json::from_slice(&package).unwrap();
        let mut command = Command::new(program("node"));
        command.arg(scripts.join("sign.mjs")).env("SIGNERS", folder);
        (command, package["version"].as_str().unwrap().to_owned())
    };
    let ran = Ran::reading(command.arg(library), &serde_json::to_vec(&wanted).unwrap());
    assert_eq!(ran.code, 0, "{library}: {ran:?}");
    let tokens: Vec<Option<String>> = serde_json::from_str(&ran.stdout)
        .unwrap_or_else(|error| panic!("{library}: {error}: {ran:?}"));
    Signed {
        library,
        version: version.trim().to_owned(),
        tokens: tokens.into_iter().flatten().collect(),
    }
}

impl Signed {
    fn describe(&self, language: &str, rows: &mut String) {
        let mut algorithms: BTreeMap<usize, String> = BTreeMap::new();
        let mut added = BTreeSet::new();
        for token in &self.tokens {
            let [header, claims] = parts(token);
            let algorithm = header["alg"].as_str().unwrap();
            algorithms.insert(
                ALGORITHMS.iter().position(|known| *known == algorithm).unwrap(),
                format!("`{algorithm}`"),
            );
            let members =
                |part: &Value| part.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            added.extend(
                members(&header)
                    .into_iter()
                    .filter(|name| name != "alg")
                    .map(|name| format!("header `{name}`")),
            );
            let own = ["username", "time", "nonce"];
            added.extend(
                members(&claims)
                    .into_iter()
                    .filter(|name| !own.contains(&name.as_str()))
                    .map(|name| format!("`{name}`")),
            );
        }
        let Self { library, version, .. } = self;
        let algorithms = algorithms.into_values().collect::<Vec<_>>().join(", ");
        let added = added.into_iter().collect::<Vec<_>>().join(", ");
        // Writing to a String cannot fail.
        let _ = writeln!(rows, "| {library} {version} | {language} | {algorithms} | {added} |");
    }
}

/// The header and the claims.
fn parts(token: &str) -> [Value; 2] {
    let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
    [(); 2].map(|()| serde_json::from_slice(&parts.next().unwrap()).unwrap())
}
