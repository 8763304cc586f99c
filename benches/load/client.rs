//! Keep-alive HTTP/1.1 connections that ask for decisions like a gateway, in a closed loop: each
//! sends its next request when it has received the last answer. Uses plain sockets, so that the
//! client takes little of the machine that it shares.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::future::{join_all, try_join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::wire::{Place, Wire};

/// Maximum length of head and body of an answer.
const ANSWER_BYTES_MAX: usize = 8 * 1024;
/// The head that nginx sends, before the token.
const REQUEST_HEAD: &str = "GET /validate_request HTTP/1.1\r\n\
    Host: auth.internal\r\n\
    X-Original-Method: GET\r\n\
    X-Original-URI: /orders/1017?page=2\r\n\
    X-Forwarded-Proto: https\r\n\
    X-Forwarded-Host: api.example.com\r\n\
    X-Real-IP: 192.0.2.17\r\n\
    User-Agent: orders-client/1.4\r\n\
    Accept: application/json\r\n\
    Authorization: ";

/// Runs `asking` on a client that never sleeps. A gateway under full load does not sleep either. If
/// the client slept, the server would spend its own time to wake it for the next answer. On a
/// virtual machine that takes several microseconds, which a server that answers fast never pays,
/// and a slower one pays for each answer: the two could not be compared.
pub(crate) async fn awake<T>(asking: impl Future<Output = T>) -> T {
    let awake = async {
        loop {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        done = asking => done,
        never = awake => never,
    }
}

/// A gateway's connections to one server.
pub(crate) struct Gateway {
    connections: Vec<Connection>,
}

/// The requests to send: values of `Authorization`, each repeated `times` times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Questions<'a> {
    authorizations: &'a [String],
    count: usize,
}

impl<'a> Questions<'a> {
    /// Each value once.
    pub(crate) const fn once(authorizations: &'a [String]) -> Self {
        Self { authorizations, count: authorizations.len() }
    }

    /// From the first to the last and again from the first, until `count` requests are sent.
    pub(crate) const fn over_and_over(authorizations: &'a [String], count: usize) -> Self {
        Self { authorizations, count }
    }

    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// The distinct values.
    pub(crate) fn distinct(&self) -> &'a [String] {
        &self.authorizations[..self.count.min(self.authorizations.len())]
    }

    fn nth(&self, number: usize) -> &'a str {
        &self.authorizations[number % self.authorizations.len()]
    }
}

/// The results of a measurement.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) count: usize,
    pub(crate) elapsed: Duration,
    /// How many answers had a status other than expected, and the first of them.
    pub(crate) unexpected: usize,
    pub(crate) first_unexpected: Option<String>,
    /// One per answer, in microseconds, sorted.
    latencies_us: Vec<u32>,
}

impl Answers {
    /// Empty, with room for `count`.
    pub(crate) fn new(count: usize) -> Self {
        let latencies_us = Vec::with_capacity(count);
        Self { count, elapsed: Duration::ZERO, unexpected: 0, first_unexpected: None, latencies_us }
    }

    pub(crate) fn add(
        &mut self,
        latency: Duration,
        is_expected: bool,
        describe: impl FnOnce() -> String,
    ) {
        self.latencies_us.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
        if !is_expected {
            self.unexpected += 1;
            self.first_unexpected.get_or_insert_with(describe);
        }
    }

    /// Completes the results, which took `elapsed` in total.
    pub(crate) fn finish(mut self, elapsed: Duration) -> Self {
        assert_eq!(self.latencies_us.len(), self.count, "every question has an answer");
        self.latencies_us.sort_unstable();
        Self { elapsed, ..self }
    }

    /// The latency that a share of `quantile` of the answers did not exceed.
    pub(crate) fn latency_us(&self, quantile: f64) -> f64 {
        let last = self.latencies_us.len() - 1;
        f64::from(self.latencies_us[(last as f64 * quantile).round() as usize])
    }
}

impl Gateway {
    /// Opens `count` connections.
    pub(crate) async fn connect(server: SocketAddr, count: usize) -> io::Result<Self> {
        Self::connect_to(&server.into(), count).await
    }

    /// The same, to a server that may have a Unix socket.
    pub(crate) async fn connect_to(server: &Place, count: usize) -> io::Result<Self> {
        let connections = try_join_all((0..count).map(|_| Connection::open(server))).await?;
        Ok(Self { connections })
    }

    /// Sends all `questions` over all connections, and expects the status `expected`.
    pub(crate) async fn ask(&mut self, questions: Questions<'_>, expected: u16) -> Answers {
        let (next, seen) = (Cell::new(0), RefCell::new(Answers::new(questions.count)));
        let start = Instant::now();
        join_all(self.connections.iter_mut().map(async |connection| {
            while next.get() < questions.count {
                let authorization = questions.nth(next.replace(next.get() + 1));
                let asked_at = Instant::now();
                let status = connection
                    .ask(authorization)
                    .await
                    .unwrap_or_else(|error| panic!("no answer from the server: {error}"));
                seen.borrow_mut()
                    .add(asked_at.elapsed(), status == expected, || connection.answer_head());
            }
        }))
        .await;
        seen.into_inner().finish(start.elapsed())
    }

    /// Sends requests over all connections indefinitely, and counts the answers.
    pub(crate) async fn flood(&mut self, authorizations: &[String], answered: &Cell<usize>) {
        join_all(self.connections.iter_mut().map(async |connection| {
            for authorization in authorizations.iter().cycle() {
                connection
                    .ask(authorization)
                    .await
                    .unwrap_or_else(|error| panic!("no answer from the server: {error}"));
                answered.set(answered.get() + 1);
            }
        }))
        .await;
    }

    /// The headers of the answer to `authorization`, without those of the message itself.
    pub(crate) async fn headers(&mut self, authorization: &str) -> Vec<(String, String)> {
        let connection = &mut self.connections[0];
        let status = connection.ask(authorization).await.unwrap();
        let head = connection.answer_head();
        assert_eq!(status, 200, "the first token was not allowed:\n{head}");
        let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        headers
            .filter(|(name, _)| !["content-length", "date"].contains(name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}

struct Connection {
    stream: Wire,
    request: Vec<u8>,
    answer: Box<[u8]>,
    answer_length: usize,
}

impl Connection {
    async fn open(server: &Place) -> io::Result<Self> {
        let stream = Wire::open(server).await?;
        let answer = vec![0; ANSWER_BYTES_MAX].into_boxed_slice();
        Ok(Self { stream, request: REQUEST_HEAD.as_bytes().to_vec(), answer, answer_length: 0 })
    }

    /// Sends a request, reads the answer to its end, and returns its status.
    async fn ask(&mut self, authorization: &str) -> io::Result<u16> {
        self.request.truncate(REQUEST_HEAD.len());
        self.request.extend_from_slice(authorization.as_bytes());
        self.request.extend_from_slice(b"\r\n\r\n");
        self.stream.write_all(&self.request).await?;
        self.answer_length = 0;
        loop {
            match self.stream.read(&mut self.answer[self.answer_length..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.answer_length += read,
            }
            if let Some(status) = status_if_complete(&self.answer[..self.answer_length]) {
                return Ok(status);
            }
        }
    }

    fn answer_head(&self) -> String {
        let answer = String::from_utf8_lossy(&self.answer[..self.answer_length]);
        answer.split("\r\n\r\n").next().unwrap_or_default().to_owned()
    }
}

/// The status of an answer, if it is complete.
fn status_if_complete(answer: &[u8]) -> Option<u16> {
    let digits = answer.strip_prefix(b"HTTP/1.1 ")?.first_chunk::<3>()?;
    let status = digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    // An allow has no body; the others say how long theirs is.
    if status == 200 {
        return answer.ends_with(b"\r\n\r\n").then_some(status);
    }
    let head_length = find(answer, b"\r\n\r\n")? + 4;
    let length = &answer[find(answer, b"content-length: ")? + 16..];
    let length = length
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
    (answer.len() >= head_length + length).then_some(status)
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}
