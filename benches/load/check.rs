//! HTTP/2 connections that call `ext_authz`'s `Check` as Envoy does, in a closed loop. A gRPC
//! library would use more of the machine than the measured server, which would then wait for its
//! client; so the client uses plain sockets here, too.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::SocketAddr,
    time::{Instant, SystemTime},
};

use envoy_types::{
    ext_authz::v3::pb::{Address, CheckRequest},
    pb::{
        envoy::{
            config::core::v3::{self as core, SocketAddress, socket_address::PortSpecifier},
            service::auth::v3::{
                AttributeContext,
                attribute_context::{HttpRequest, Peer, Request},
            },
        },
        google::protobuf::Timestamp,
    },
};
use futures_util::future::{join_all, try_join_all};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use crate::{
    client::{Answers, Questions},
    wire::{Place, Wire},
};

/// One for each of Envoy's workers.
pub(crate) const CONNECTIONS: usize = 2;
/// Calls in flight per connection.
const IN_FLIGHT: usize = 32;

/// The headers that Envoy sends before every message, except those in HPACK's static table. They
/// are always the same, so from the second call on, one byte represents each of them.
const HEADERS: [(&str, &str); 8] = [
    (":path", "/envoy.service.auth.v3.Authorization/Check"),
    (":authority", "ext_authz"),
    ("te", "trailers"),
    ("grpc-timeout", "200m"),
    ("content-type", "application/grpc"),
    ("x-envoy-internal", "true"),
    ("x-forwarded-for", "10.0.0.7"),
    ("x-envoy-expected-rq-timeout-ms", "200"),
];

/// Envoy's connections to one server.
pub(crate) struct Envoy {
    connections: Vec<Connection>,
}

impl Envoy {
    pub(crate) async fn connect(server: SocketAddr) -> io::Result<Self> {
        Self::connect_times(server, CONNECTIONS).await
    }

    /// Opens `count` connections.
    pub(crate) async fn connect_times(server: SocketAddr, count: usize) -> io::Result<Self> {
        Self::connect_to(&server.into(), count).await
    }

    /// The same, to a server that may have a Unix socket.
    pub(crate) async fn connect_to(server: &Place, count: usize) -> io::Result<Self> {
        Ok(Self { connections: try_join_all((0..count).map(|_| Connection::open(server))).await? })
    }

    /// Sends requests over all connections indefinitely, and counts the answers.
    pub(crate) async fn flood(&mut self, authorizations: &[String], answered: &Cell<usize>) {
        let messages: Vec<Vec<u8>> =
            authorizations.iter().map(|question| message(question)).collect();
        let number = Cell::new(0);
        let next = || Some(&*messages[number.replace(number.get() + 1) % messages.len()]);
        join_all(self.connections.iter_mut().map(async |connection| {
            let seen = |_: &OpenStream, _: &[u8]| answered.set(answered.get() + 1);
            connection
                .ask_all(next, seen)
                .await
                .unwrap_or_else(|error| panic!("no answer from the server: {error}"));
        }))
        .await;
    }

    /// Sends all `questions` over all connections, and expects the HTTP status `expected`.
    pub(crate) async fn ask(&mut self, questions: Questions<'_>, expected: u16) -> Answers {
        // Before the clock starts: during the measurement the client should only copy.
        let messages: Vec<Vec<u8>> =
            questions.distinct().iter().map(|question| message(question)).collect();
        let (next, seen) = (Cell::new(0), RefCell::new(Answers::new(questions.count())));
        let next = || {
            (next.get() < questions.count())
                .then(|| &*messages[next.replace(next.get() + 1) % messages.len()])
        };
        let start = Instant::now();
        join_all(self.connections.iter_mut().map(async |connection| {
            let seen = |answer: &OpenStream, message: &[u8]| {
                let status = http_status(answer.code);
                let describe = || format!("{answer:?}: {}", String::from_utf8_lossy(message));
                seen.borrow_mut().add(
                    answer.asked_at.elapsed(),
                    status == Some(expected),
                    describe,
                );
            };
            connection
                .ask_all(next, seen)
                .await
                .unwrap_or_else(|error| panic!("no answer from the server: {error}"));
        }))
        .await;
        seen.into_inner().finish(start.elapsed())
    }

    /// The message that allows `authorization`.
    pub(crate) async fn allow(&mut self, authorization: &str) -> Vec<u8> {
        let question = [authorization.to_owned()];
        let answers = self.ask(Questions::once(&question), 200).await;
        assert_eq!(
            answers.unexpected, 0,
            "the first token was not allowed: {:?}",
            answers.first_unexpected
        );
        self.connections[0].last_message.clone()
    }
}

/// The HTTP status that Envoy's client receives for a `CheckResponse` with this code.
fn http_status(code: Option<u8>) -> Option<u16> {
    match Code::from_i32(code?.into()) {
        Code::Ok => Some(200),
        Code::Unauthenticated => Some(401),
        Code::PermissionDenied => Some(403),
        Code::Unavailable => Some(503),
        _ => None,
    }
}

/// A call without an answer yet.
#[derive(Debug)]
struct OpenStream {
    id: u32,
    asked_at: Instant,
    /// From the message, once it has arrived.
    code: Option<u8>,
}

struct Connection {
    stream: Wire,
    output: Vec<u8>,
    input: Box<[u8]>,
    input_length: usize,
    open: Vec<OpenStream>,
    next_id: u32,
    /// The header block of every call after the first.
    header_block: Vec<u8>,
    /// Bytes of messages that the server still accepts, and bytes that it has sent since the last
    /// window update.
    send_window: i64,
    received: u32,
    last_message: Vec<u8>,
}

impl Connection {
    async fn open(server: &Place) -> io::Result<Self> {
        let stream = Wire::open(server).await?;
        let mut output = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let settings = [(setting::ENABLE_PUSH, 0), (setting::INITIAL_WINDOW_SIZE, WINDOW)];
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        frame(&mut output, kind::SETTINGS, 0, 0, &settings);
        frame(&mut output, kind::WINDOW_UPDATE, 0, 0, &(WINDOW - DEFAULT_WINDOW).to_be_bytes());
        Ok(Self {
            stream,
            output,
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            input_length: 0,
            open: Vec::with_capacity(IN_FLIGHT),
            next_id: 1,
            header_block: first_header_block(),
            send_window: DEFAULT_WINDOW.into(),
            received: 0,
            last_message: Vec::new(),
        })
    }

    /// Sends requests while there is a `next` message, and passes every answer to `seen`, with its
    /// last message.
    async fn ask_all<'a>(
        &mut self,
        next: impl Fn() -> Option<&'a [u8]>,
        seen: impl Fn(&OpenStream, &[u8]),
    ) -> io::Result<()> {
        loop {
            while self.open.len() < IN_FLIGHT
                && let Some(message) = next()
            {
                self.ask(message);
            }
            if self.open.is_empty() {
                frame(
                    &mut self.output,
                    kind::WINDOW_UPDATE,
                    0,
                    0,
                    &self.received.max(1).to_be_bytes(),
                );
                self.received = 0;
                self.stream.write_all(&self.output).await?;
                self.output.clear();
                return Ok(());
            }
            self.stream.write_all(&self.output).await?;
            self.output.clear();
            self.read(&seen).await?;
        }
    }

    fn ask(&mut self, message: &[u8]) {
        let id = self.next_id;
        self.next_id += 2;
        frame(&mut self.output, kind::HEADERS, flag::END_HEADERS, id, &self.header_block);
        if id == 1 {
            self.header_block = later_header_block();
        }
        frame(&mut self.output, kind::DATA, flag::END_STREAM, id, message);
        // So few are in flight that the server has long read the earlier ones.
        self.send_window -= i64::try_from(message.len()).unwrap();
        assert!(self.send_window >= 0, "the server takes no more");
        self.open.push(OpenStream { id, asked_at: Instant::now(), code: None });
    }

    /// Reads the available data, at least one byte.
    async fn read(&mut self, seen: impl Fn(&OpenStream, &[u8])) -> io::Result<()> {
        match self.stream.read(&mut self.input[self.input_length..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => self.input_length += read,
        }
        let mut done = 0;
        while let Some(frame_read) = Frame::read(&self.input[done..self.input_length]) {
            done += FRAME_HEAD_BYTES + frame_read.payload.len();
            let Frame { kind, flags, id, payload } = frame_read;
            match kind {
                kind::DATA => {
                    self.received += payload.len() as u32;
                    if let Some(message) = payload.get(MESSAGE_HEAD_BYTES..) {
                        let open = self
                            .open
                            .iter_mut()
                            .find(|open| open.id == id)
                            .expect("every answer has a question");
                        open.code = status_code(message);
                        message.clone_into(&mut self.last_message);
                    }
                }
                kind::SETTINGS if flags & flag::ACK == 0 => {
                    frame(&mut self.output, kind::SETTINGS, flag::ACK, 0, &[]);
                }
                kind::PING if flags & flag::ACK == 0 => {
                    frame(&mut self.output, kind::PING, flag::ACK, 0, payload);
                }
                kind::WINDOW_UPDATE if id == 0 => self.send_window += i64::from(number(payload)),
                kind::RST_STREAM | kind::GOAWAY => {
                    return Err(io::Error::other(format!("reset, or gone away: {payload:?}")));
                }
                _ => {}
            }
            if matches!(kind, kind::DATA | kind::HEADERS) && flags & flag::END_STREAM != 0 {
                let place = self
                    .open
                    .iter()
                    .position(|open| open.id == id)
                    .expect("every answer has a question");
                seen(&self.open.swap_remove(place), &self.last_message);
            }
        }
        self.input.copy_within(done..self.input_length, 0);
        self.input_length -= done;
        Ok(())
    }
}

/// `status.code`, which comes first in a `CheckResponse`. Skips the rest, since decoding it would
/// take longer than the call.
fn status_code(message: &[u8]) -> Option<u8> {
    match *message {
        [0x0a, 0, ..] => Some(0),
        [0x0a, _, 0x08, code, ..] => Some(code),
        _ => None,
    }
}

// The parts of HTTP/2 (RFC 9113) that are needed here.

const FRAME_HEAD_BYTES: usize = 9;
/// A server sends frames of at most 16 KiB unless the client allows larger ones.
const INPUT_BYTES: usize = 64 * 1024;
const DEFAULT_WINDOW: u32 = 65_535;
/// Envoy's window for a connection and for a stream.
const WINDOW: u32 = 256 * 1024 * 1024;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
}

mod flag {
    pub(super) const ACK: u8 = 0x1;
    pub(super) const END_STREAM: u8 = 0x1;
    pub(super) const END_HEADERS: u8 = 0x4;
}

mod setting {
    pub(super) const ENABLE_PUSH: u16 = 2;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    id: u32,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame of `input`, if it is complete.
    fn read(input: &'a [u8]) -> Option<Self> {
        let (head, rest) = input.split_first_chunk::<FRAME_HEAD_BYTES>()?;
        let payload = rest.get(..number(&head[..3]) as usize)?;
        Some(Self { kind: head[3], flags: head[4], id: number(&head[5..]), payload })
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn frame(output: &mut Vec<u8>, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    output.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    output.extend_from_slice(&[kind, flags]);
    output.extend_from_slice(&id.to_be_bytes());
    output.extend_from_slice(payload);
}

/// `:method: POST` and `:scheme: http` in HPACK's static table (RFC 7541 appendix A).
const METHOD_AND_SCHEME: [u8; 2] = [0x83, 0x86];
/// Index of the first entry of HPACK's dynamic table, which is the entry added last.
const DYNAMIC: usize = 62;

/// [`HEADERS`] as literals that are added to the dynamic table.
fn first_header_block() -> Vec<u8> {
    let mut block = METHOD_AND_SCHEME.to_vec();
    for (name, value) in HEADERS {
        block.push(0x40);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// [`HEADERS`] as indices into that table.
fn later_header_block() -> Vec<u8> {
    let places = (DYNAMIC..DYNAMIC + HEADERS.len()).rev();
    METHOD_AND_SCHEME.into_iter().chain(places.map(|place| 0x80 | place as u8)).collect()
}

// gRPC: each message follows a byte that says whether it is compressed, and its length.

const MESSAGE_HEAD_BYTES: usize = 5;

fn message(authorization: &str) -> Vec<u8> {
    let request = check_request(authorization);
    let mut message = vec![0];
    message.extend_from_slice(&(request.encoded_len() as u32).to_be_bytes());
    request.encode(&mut message).unwrap();
    message
}

/// The request as Envoy 1.40 describes it.
fn check_request(authorization: &str) -> CheckRequest {
    let headers = [
        (":authority", "api.example.com"),
        (":method", "GET"),
        (":path", "/orders/1017?page=2"),
        (":scheme", "https"),
        ("accept", "application/json"),
        ("authorization", authorization),
        ("user-agent", "orders-client/1.4"),
        ("x-forwarded-for", "192.0.2.17"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "3b0a3d36-7c5c-4a6e-9a0b-0d9c7b0a1f52"),
    ];
    let http = HttpRequest {
        id: fastrand::u64(..).to_string(),
        method: "GET".to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect::<HashMap<_, _>>(),
        path: "/orders/1017?page=2".to_owned(),
        host: "api.example.com".to_owned(),
        scheme: "https".to_owned(),
        protocol: "HTTP/1.1".to_owned(),
        ..HttpRequest::default()
    };
    let attributes = AttributeContext {
        source: Some(peer("192.0.2.17", 49_152)),
        destination: Some(peer("10.0.0.7", 8443)),
        request: Some(Request { time: Some(now()), http: Some(http) }),
        metadata_context: Some(core::Metadata::default()),
        route_metadata_context: Some(core::Metadata::default()),
        ..AttributeContext::default()
    };
    CheckRequest { attributes: Some(attributes) }
}

fn now() -> Timestamp {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    Timestamp { seconds: now.as_secs().cast_signed(), nanos: now.subsec_nanos().cast_signed() }
}

fn peer(address: &str, port: u32) -> Peer {
    let socket = SocketAddress {
        address: address.to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    };
    Peer {
        address: Some(core::Address { address: Some(Address::SocketAddress(socket)) }),
        ..Peer::default()
    }
}
