//! A small HTTP/1.1 client that sends exactly what it is given and keeps exactly what it receives:
//! a well-behaved client would normalise the paths, duplicate headers and bodies that matter here.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    version: &'static str,
    /// Whether to add a Host line if it has none.
    needs_host: bool,
}

impl Request {
    pub fn target(&self) -> &str {
        &self.target
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn new(method: &str, target: &str) -> Self {
        let (method, target) = (method.to_owned(), target.to_owned());
        Self {
            method,
            target,
            headers: Vec::new(),
            body: Vec::new(),
            version: "HTTP/1.1",
            needs_host: true,
        }
    }

    /// Adds a header, even if there is already one of that name.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn authorization(self, value: &str) -> Self {
        self.header("Authorization", value)
    }

    /// The same request with a prefix before its path.
    #[must_use]
    pub fn below(mut self, prefix: &str) -> Self {
        self.target.insert_str(0, prefix);
        self
    }

    /// Adds a body and its Content-Length.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("Content-Length", &length)
    }

    /// Adds bytes after the head, without a header that announces them.
    #[must_use]
    pub fn with_bytes(mut self, bytes: &str) -> Self {
        self.body = bytes.as_bytes().to_vec();
        self
    }

    #[must_use]
    pub const fn over_http_1_0(mut self) -> Self {
        self.version = "HTTP/1.0";
        self
    }

    /// Sends no Host line, unless one was added.
    #[must_use]
    pub const fn without_host(mut self) -> Self {
        self.needs_host = false;
        self
    }

    /// Sends it over a new connection.
    pub async fn send(&self, server: SocketAddr) -> Answer {
        self.try_send(server)
            .await
            .unwrap_or_else(|error| panic!("no answer from {server}: {error}"))
    }

    /// Like [`Self::send`], to a server that may be down.
    pub async fn try_send(&self, server: SocketAddr) -> std::io::Result<Answer> {
        Connection::open(server).await?.send(self).await
    }

    /// Sends it over a new connection to a Unix socket.
    pub async fn send_to(&self, socket: &Path) -> Answer {
        let answer = async { Connection::open_unix(socket).await?.send(self).await };
        answer.await.unwrap_or_else(|error| panic!("no answer from {}: {error}", socket.display()))
    }

    fn encode(&self, host: &str) -> Vec<u8> {
        let mut text = format!("{} {} {}\r\n", self.method, self.target, self.version);
        if self.needs_host
            && !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            text.extend(["Host: ", host, "\r\n"]);
        }
        for (name, value) in &self.headers {
            text.extend([name, ": ", value, "\r\n"]);
        }
        text += "\r\n";
        [text.as_bytes(), &self.body].concat()
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// A kept-alive connection: one request after another.
pub struct Connection {
    stream: Box<dyn Duplex>,
    host: String,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(server: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: Box::new(stream), host: server.to_string(), buffer: Vec::new() })
    }

    pub async fn open_unix(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        Ok(Self { stream: Box::new(stream), host: "localhost".to_owned(), buffer: Vec::new() })
    }

    pub async fn send(&mut self, request: &Request) -> std::io::Result<Answer> {
        self.write(request).await?;
        self.answer(request.method == "HEAD").await
    }

    /// Sends it without waiting for the answer.
    pub async fn write(&mut self, request: &Request) -> std::io::Result<()> {
        self.stream.write_all(&request.encode(&self.host)).await
    }

    /// Reads one answer, to the oldest request that has none yet.
    pub async fn answer(&mut self, to_head: bool) -> std::io::Result<Answer> {
        let head_length = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            self.read_more().await?;
        };
        let head: Vec<u8> = self.buffer.drain(..head_length).collect();
        let mut answer = Answer::parse(head);
        if to_head || answer.status == 204 || answer.status == 304 {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            answer.body = self.chunked().await?;
        } else {
            let length = answer.header("content-length").map(|length| length.parse().unwrap());
            answer.body = match length {
                Some(length) => self.take(length).await?,
                None if answer.head.starts_with(b"HTTP/1.0") => self.rest().await?,
                None => Vec::new(),
            };
        }
        Ok(answer)
    }

    async fn chunked(&mut self) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(end) = find(&self.buffer, b"\r\n") {
                    break self.take(end + 2).await?;
                }
                self.read_more().await?;
            };
            let length = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).unwrap();
            let chunk = self.take(length + 2).await?;
            if length == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..length]);
        }
    }

    async fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        self.stream.read_to_end(&mut self.buffer).await?;
        Ok(std::mem::take(&mut self.buffer))
    }

    async fn take(&mut self, length: usize) -> std::io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.read_more().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    async fn read_more(&mut self) -> std::io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    /// The status line and the headers, as received.
    pub head: Vec<u8>,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", String::from_utf8_lossy(&self.head), String::from_utf8_lossy(&self.body))
    }
}

impl Answer {
    fn parse(head: Vec<u8>) -> Self {
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut lines = text.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(':').unwrap_or_else(|| panic!("no header: {line}")))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Self { status, head, headers, body: Vec::new() }
    }

    /// The value of the only header of that name.
    ///
    /// # Panics
    /// If there are two: which one a client uses would be chance.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values =
            self.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "a second {name} header in {self:?}");
        value
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
