//! The minimum cost of each part of a decision, with nothing around it:
//!
//! - HTTP: an actix-web handler that answers every request with 200 over the same connections:
//!   without extra headers, and with those of an allow;
//! - gRPC: a tonic service that answers every `Check` with the same allow;
//! - parsing the token: base64url, and header and claims by serde, borrowed;
//! - the signature: one verification by aws-lc-rs, with a key that is already parsed;
//! - the nonce: one `SET key value NX EX ttl` over one multiplexed redis-rs connection that 64
//!   tasks share.

use std::{
    env,
    hint::black_box,
    io::{self, BufRead, BufReader, Lines, Read, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, ExitCode, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use actix_web::{
    App, HttpResponse, HttpServer,
    http::{
        StatusCode,
        header::{HeaderName, HeaderValue},
    },
    rt::System,
    web,
};
use aws_lc_rs::signature::{ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use countersign::domain::algorithm::Algorithm;
use deadpool_redis::redis::{self, AsyncConnectionConfig, aio::MultiplexedConnection};
use envoy_types::ext_authz::v3::pb::{
    Authorization, AuthorizationServer, CheckRequest, CheckResponse,
};
use futures_util::future::join_all;
use prost::Message;
use serde::Deserialize;
use tokio::runtime::Runtime;
use tonic::{Request, Response, Status, async_trait, transport::Server};

use crate::{
    machine::CpuClock,
    server::Placement,
    tokens::{self, Signer},
};

/// First argument of the null server, followed by the address and `name=value` for each header.
pub(crate) const NULL_SERVER: &str = "--null-server";
/// First argument of the null server for gRPC, followed by the address and the `CheckResponse` in
/// base64.
pub(crate) const NULL_CHECK: &str = "--null-check";
/// First argument of the process that measures the other floors, followed by the address of Redis.
pub(crate) const PARTS: &str = "--parts";

/// As long as the service keeps idle connections.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
const CLAIMS_IN_FLIGHT: usize = 64;
const TOKENS_VERIFIED: usize = 256;

/// Argument before the headers of [`NULL_SERVER`]: also verify an RS256 signature for each request.
pub(crate) const VERIFYING: &str = "--verifying";

/// Gives every request the same answer. Ends when its standard input closes, which happens when the
/// parent process ends.
pub(crate) fn null_server(arguments: &[String]) -> ExitCode {
    let (address, headers) = arguments.split_first().unwrap();
    let is_verifying = headers.first().is_some_and(|first| first == VERIFYING);
    let verification = is_verifying.then(|| Arc::new(Verification::new(Algorithm::Rs256)));
    let headers = &headers[usize::from(is_verifying)..];
    let headers: Vec<(HeaderName, HeaderValue)> = headers
        .iter()
        .map(|header| header.split_once('=').unwrap())
        .map(|(name, value)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )
        })
        .collect();
    end_with_input();
    let server = HttpServer::new(move || {
        let (headers, verification) = (headers.clone(), verification.clone());
        let answer = move || {
            if let Some(verification) = &verification {
                verification.once();
            }
            let mut response = HttpResponse::new(StatusCode::OK);
            for (name, value) in &headers {
                response.headers_mut().insert(name.clone(), value.clone());
            }
            std::future::ready(response)
        };
        App::new().service(web::resource("/validate_request").to(answer))
    });
    let server = server.keep_alive(KEEP_ALIVE);
    System::new().block_on(server.bind(address.as_str()).unwrap().run()).unwrap();
    ExitCode::SUCCESS
}

/// The same over gRPC, set up as in tonic's examples.
pub(crate) fn null_check(arguments: &[String]) -> ExitCode {
    let [address, response] = arguments else { panic!("an address and a response") };
    let response = CheckResponse::decode(&*BASE64_STANDARD.decode(response).unwrap()).unwrap();
    end_with_input();
    let server = Server::builder()
        .tcp_nodelay(true)
        .add_service(AuthorizationServer::new(NullCheck(response)));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(server.serve(address.parse().unwrap())).unwrap();
    ExitCode::SUCCESS
}

struct NullCheck(CheckResponse);

#[async_trait]
impl Authorization for NullCheck {
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Ok(Response::new(self.0.clone()))
    }
}

/// Ends this process when its parent has ended.
pub(crate) fn end_with_input() {
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
}

/// The work that [`Parts`] repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Parsing a token.
    Parse,
    Ed25519,
    Rs256,
    Redis,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Ed25519 => "ed25519",
            Self::Rs256 => "rs256",
            Self::Redis => "redis",
        }
    }
}

/// A process that runs single parts of a decision, so that their CPU time can be measured
/// separately.
pub(crate) struct Parts {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Parts {
    pub(crate) fn start(placement: Placement, redis: SocketAddr) -> Self {
        let mut command = placement.server(env::current_exe().unwrap());
        command.arg(PARTS).arg(redis.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self { process, input, output: BufReader::new(output).lines() }
    }

    /// Microseconds of CPU time to run `part` `count` times.
    pub(crate) fn measure(&mut self, part: Part, count: usize) -> f64 {
        writeln!(self.input, "{} {count}", part.name()).unwrap();
        let micros: f64 =
            self.output.next().expect("the process goes on").unwrap().parse().unwrap();
        micros / count as f64
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads lines from standard input; each names a part and a count. Runs the part that many times
/// and prints the microseconds of CPU time used. Ends when its standard input closes.
pub(crate) fn parts(arguments: &[String]) -> ExitCode {
    let (ed25519, rs256) =
        (Verification::new(Algorithm::EdDsa), Verification::new(Algorithm::Rs256));
    let claims = Claims::new(&arguments[0]);
    for line in io::stdin().lines() {
        let line = line.unwrap();
        let (part, count) = line.split_once(' ').unwrap();
        let count = count.parse().unwrap();
        let micros = match part {
            "parse" => ed25519.parse(count),
            "ed25519" => ed25519.measure(count),
            "rs256" => rs256.measure(count),
            "redis" => claims.measure(count),
            other => panic!("{other} is not a part"),
        };
        println!("{micros}");
    }
    ExitCode::SUCCESS
}

struct Claims {
    runtime: Runtime,
    connection: MultiplexedConnection,
}

impl Claims {
    fn new(redis: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = redis::Client::open(format!("redis://{redis}")).unwrap();
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let connection =
            runtime.block_on(client.get_multiplexed_async_connection_with_config(&config)).unwrap();
        Self { runtime, connection }
    }

    fn measure(&self, count: usize) -> f64 {
        let run = fastrand::u64(..);
        let keys: Vec<String> = (0..count)
            .map(|number| format!("countersign:nonce:1:n{run:016x}{number:06x}"))
            .collect();
        let clock = CpuClock::of_this_process();
        let before = clock.now();
        self.runtime.block_on(join_all(keys.chunks(count.div_ceil(CLAIMS_IN_FLIGHT)).map(
            async |keys| {
                let mut connection = self.connection.clone();
                for key in keys {
                    let mut set = redis::cmd("SET");
                    set.arg(key).arg([0_u8; 16].as_slice()).arg("NX").arg("EX").arg(21);
                    let answer: Option<redis::Value> =
                        set.query_async(&mut connection).await.unwrap();
                    assert!(answer.is_some(), "a nonce was there before");
                }
            },
        )));
        clock.micros_since(&before)
    }
}

#[derive(Deserialize)]
struct Header<'a> {
    alg: &'a str,
    kid: &'a str,
}

#[derive(Deserialize)]
struct TokenClaims<'a> {
    username: &'a str,
    time: i64,
    nonce: &'a str,
}

struct Verification {
    key: ParsedPublicKey,
    tokens: Vec<String>,
    signed: Vec<(String, Vec<u8>)>,
}

impl Verification {
    fn new(algorithm: Algorithm) -> Self {
        let signer = Signer::new("floor@example.com".to_owned(), algorithm);
        let spki = signer.public_key().spki();
        let key = match algorithm {
            Algorithm::EdDsa => ParsedPublicKey::new(&ED25519, spki),
            Algorithm::Rs256 => ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, spki),
            other => panic!("{other} is not measured"),
        };
        let tokens = tokens::sign(&[signer], TOKENS_VERIFIED, 0);
        let split = |authorization: &String| {
            let (message, signature) = authorization["JWT ".len()..].rsplit_once('.').unwrap();
            (message.to_owned(), BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap())
        };
        Self { key: key.unwrap(), signed: tokens.iter().map(split).collect(), tokens }
    }

    /// Decodes the three parts of tokens, and reads header and claims without copying.
    fn parse(&self, count: usize) -> f64 {
        let clock = CpuClock::of_this_process();
        let before = clock.now();
        let mut decoded = Vec::new();
        for token in self.tokens.iter().cycle().take(count) {
            let mut ends = [0; 3];
            decoded.clear();
            for (part, end) in token["JWT ".len()..].split('.').zip(&mut ends) {
                BASE64_URL_SAFE_NO_PAD.decode_vec(part, &mut decoded).unwrap();
                *end = decoded.len();
            }
            let header: Header<'_> = serde_json::from_slice(&decoded[..ends[0]]).unwrap();
            let claims: TokenClaims<'_> =
                serde_json::from_slice(&decoded[ends[0]..ends[1]]).unwrap();
            black_box((header.alg, header.kid, claims.username, claims.time, claims.nonce));
        }
        clock.micros_since(&before)
    }

    /// Verifies one signature.
    fn once(&self) {
        let (message, signature) = fastrand::choice(&self.signed).unwrap();
        self.key.verify_sig(message.as_bytes(), signature).unwrap();
    }

    fn measure(&self, count: usize) -> f64 {
        let clock = CpuClock::of_this_process();
        let before = clock.now();
        for (message, signature) in self.signed.iter().cycle().take(count) {
            self.key.verify_sig(message.as_bytes(), signature).unwrap();
        }
        clock.micros_since(&before)
    }
}
