//! HTTP/1.1 load from blocking threads, one connection each: in an open loop, like clients that are
//! independent of each other, and in a closed one, to find out how fast a server is.
//!
//! In the open loop, requests arrive when a schedule says so, whether or not earlier ones are
//! answered, and latency counts from that moment: the time that a request waits because all
//! connections are busy is included (no coordinated omission).

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Timeout of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Time from the start of the threads to the first arrival, so that all of them have started.
const LEAD: Duration = Duration::from_millis(30);
const READ_BYTES: usize = 16 * 1024;

/// Latency against load, for one server.
#[derive(Debug)]
pub(crate) struct Curve {
    pub(crate) label: String,
    /// Requests per second, and p50, p99 and p99.9 in microseconds.
    pub(crate) points: Vec<(f64, f64, f64, f64)>,
}

/// The times at which requests arrive.
#[derive(Debug)]
pub(crate) struct Schedule(Vec<Duration>);

impl Schedule {
    /// Independent arrivals, `rate` per second on average. The same `seed` gives the same times.
    pub(crate) fn poisson(rate: f64, duration: Duration, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut at = 0.0;
        let next = std::iter::repeat_with(|| {
            at -= (1.0 - random.f64()).ln() / rate;
            Duration::from_secs_f64(at)
        });
        Self(next.take_while(|at| *at < duration).collect())
    }

    pub(crate) const fn count(&self) -> usize {
        self.0.len()
    }
}

/// The results of a measurement.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    pub(crate) elapsed: Duration,
    /// Statuses other than 200.
    pub(crate) unexpected: Vec<u16>,
    /// One per answer, in microseconds, sorted.
    answered_after_us: Vec<f64>,
    /// How late idle threads were to send, in microseconds, sorted: no fault of the server.
    delays_us: Vec<f64>,
}

impl Latencies {
    /// The results of all `turns` together.
    pub(crate) fn of(turns: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self::default();
        for mut turn in turns {
            all.elapsed += turn.elapsed;
            all.unexpected.append(&mut turn.unexpected);
            all.answered_after_us.append(&mut turn.answered_after_us);
            all.delays_us.append(&mut turn.delays_us);
        }
        all.answered_after_us.sort_by(f64::total_cmp);
        all.delays_us.sort_by(f64::total_cmp);
        all
    }

    pub(crate) const fn count(&self) -> usize {
        self.answered_after_us.len()
    }

    /// Answers per second.
    pub(crate) fn rate(&self) -> f64 {
        self.count() as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that a share of `quantile` of the answers did not exceed.
    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        quantile_of(&self.answered_after_us, quantile)
    }

    /// The same quantile of how late the threads themselves were.
    pub(crate) fn delay_us(&self, quantile: f64) -> f64 {
        quantile_of(&self.delays_us, quantile)
    }
}

fn quantile_of(sorted: &[f64], quantile: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * quantile).round() as usize).copied().unwrap_or_default()
}

/// Keep-alive connections to one server, opened when they are first used.
pub(crate) struct Clients {
    connections: Vec<Connection>,
}

impl Clients {
    /// `count` connections that send `head`, followed by the value of `Authorization`.
    pub(crate) fn new(server: SocketAddr, head: &str, count: usize) -> Self {
        let connection = || Connection {
            server,
            stream: None,
            head: head.as_bytes().into(),
            request: Vec::new(),
            answer: Vec::new(),
        };
        Self { connections: std::iter::repeat_with(connection).take(count).collect() }
    }

    /// Sends as fast as possible, until `count` requests are sent or `at_most` has passed. Uses
    /// `authorizations` in order, and again from the first if there are fewer.
    pub(crate) fn closed_loop(
        &mut self,
        authorizations: &[String],
        count: usize,
        at_most: Duration,
    ) -> Latencies {
        let next = AtomicUsize::new(0);
        self.run(|connection, begin| {
            let mut seen = Latencies::default();
            wait_until(begin);
            while begin.elapsed() < at_most {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                let asked_at = Instant::now();
                seen.note(connection.ask(&authorizations[number % authorizations.len()]), asked_at);
            }
            seen
        })
    }

    /// Sends at the times of `schedule`, each time with another authorization.
    pub(crate) fn open_loop(
        &mut self,
        authorizations: &[String],
        schedule: &Schedule,
    ) -> Latencies {
        assert!(
            authorizations.len() >= schedule.count(),
            "{} tokens for {} arrivals",
            authorizations.len(),
            schedule.count()
        );
        let next = AtomicUsize::new(0);
        self.run(|connection, begin| {
            let mut seen = Latencies::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(arrival) = schedule.0.get(number) else { return seen };
                let arrival = begin + *arrival;
                if wait_until(arrival) {
                    seen.delays_us.push(arrival.elapsed().as_secs_f64() * 1e6);
                }
                seen.note(connection.ask(&authorizations[number]), arrival);
            }
        })
    }

    /// Runs `work` on all connections at once, from the same moment on.
    fn run(&mut self, work: impl Fn(&mut Connection, Instant) -> Latencies + Sync) -> Latencies {
        let begin = Instant::now() + LEAD;
        let turns: Vec<Latencies> = thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = self
                .connections
                .iter_mut()
                .map(|connection| {
                    scope.spawn(move || {
                        wake_promptly();
                        work(connection, begin)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let elapsed = begin.elapsed();
        Latencies { elapsed, ..Latencies::of(turns) }
    }
}

impl Latencies {
    fn note(&mut self, status: io::Result<u16>, since: Instant) {
        let status = status.unwrap_or_else(|error| panic!("no answer from the server: {error}"));
        self.answered_after_us.push(since.elapsed().as_secs_f64() * 1e6);
        if status != 200 {
            self.unexpected.push(status);
        }
    }
}

/// Waits until `moment`. Returns whether there was any time left.
fn wait_until(moment: Instant) -> bool {
    let rest = moment.saturating_duration_since(Instant::now());
    if rest.is_zero() {
        return false;
    }
    thread::sleep(rest);
    true
}

/// Asks the kernel not to let this thread sleep up to 50 µs longer to save power. If that is not
/// allowed, both sides of a comparison are equally late.
fn wake_promptly() {
    let Ok(thread) = fs::read_link("/proc/thread-self") else { return };
    let Some(id) = thread.file_name() else { return };
    let _ = fs::write(std::path::Path::new("/proc").join(id).join("timerslack_ns"), "1");
}

struct Connection {
    server: SocketAddr,
    stream: Option<TcpStream>,
    head: Box<[u8]>,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    /// Sends a request, reads the answer to its end, and returns its status.
    fn ask(&mut self, authorization: &str) -> io::Result<u16> {
        self.request.clear();
        for part in [&self.head, authorization.as_bytes(), b"\r\n\r\n"] {
            self.request.extend_from_slice(part);
        }
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => open(self.server)?,
        };
        stream.write_all(&self.request)?;
        self.answer.clear();
        let mut length = 0;
        let answer = loop {
            self.answer.resize(length + READ_BYTES, 0);
            let read = stream.read(&mut self.answer[length..])?;
            length += read;
            match Answer::read(&self.answer[..length], read == 0)? {
                Some(answer) => break answer,
                None if read == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => {}
            }
        };
        if answer.keeps_alive {
            self.stream = Some(stream);
        }
        Ok(answer.status)
    }
}

fn open(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(stream)
}

struct Answer {
    status: u16,
    keeps_alive: bool,
}

impl Answer {
    /// The answer, if it is complete. `at_end`: the server has closed the connection.
    fn read(received: &[u8], at_end: bool) -> io::Result<Option<Self>> {
        let Some(head_length) = end_of(received, b"\r\n\r\n") else { return Ok(None) };
        let malformed = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                String::from_utf8_lossy(received).into_owned(),
            )
        };
        let (head, body) = received.split_at(head_length);
        let head = std::str::from_utf8(head).map_err(|_| malformed())?;
        let mut lines = head.lines();
        let status_line = lines.next().unwrap_or_default();
        let status = status_line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or_else(malformed)?;
        let mut keeps_alive = status_line.starts_with("HTTP/1.1 ");
        let (mut length, mut is_chunked) = (None, false);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.parse::<usize>().map_err(|_| malformed())?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                is_chunked = value.eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close")
            {
                keeps_alive = false;
            }
        }
        let is_complete = match length {
            _ if is_chunked => last_chunk_is_there(body).ok_or_else(malformed)?,
            Some(length) => body.len() >= length,
            None => {
                keeps_alive = false;
                at_end
            }
        };
        Ok(is_complete.then_some(Self { status, keeps_alive }))
    }
}

/// Whether `body` is complete up to its last chunk and the trailers. `None` if it is not chunked.
fn last_chunk_is_there(mut body: &[u8]) -> Option<bool> {
    while let Some(line_length) = end_of(body, b"\r\n") {
        let line = std::str::from_utf8(&body[..line_length - 2]).ok()?;
        let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(end_of(&body[line_length - 2..], b"\r\n\r\n").is_some());
        }
        let Some(rest) = body.get(line_length + size + 2..) else { return Some(false) };
        body = rest;
    }
    Some(false)
}

/// The end of the first `wanted` in `text`.
fn end_of(text: &[u8], wanted: &[u8]) -> Option<usize> {
    Some(text.windows(wanted.len()).position(|window| window == wanted)? + wanted.len())
}
