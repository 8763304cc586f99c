//! Asks an HTTP door as a gateway would, for `countersign demo`.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use crate::config::ListenAddress;

/// The response of a door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status line or code.
    pub status: String,
    /// The identity, or the error code of a refusal.
    pub says: String,
}

/// Sends `authorization` to `/validate_request` of the door at `address`.
pub async fn ask(address: &ListenAddress, authorization: &str) -> io::Result<Answer> {
    match address {
        ListenAddress::Tcp(address) => {
            ask_over(TcpStream::connect(address).await?, &address.to_string(), authorization).await
        }
        ListenAddress::Unix(path) => {
            ask_over(UnixStream::connect(path).await?, "localhost", authorization).await
        }
    }
}

async fn ask_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    authorization: &str,
) -> io::Result<Answer> {
    let request = format!(
        "GET /validate_request HTTP/1.1\r\nHost: {host}\r\nX-Original-Method: GET\r\nX-Original-URI: /demo\r\n\
         Authorization: {authorization}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let header = |name: &str| {
        response.lines().find_map(|line| {
            line.split_once(": ")
                .filter(|(found, _)| found.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.to_owned())
        })
    };
    let status =
        response.lines().next().unwrap_or_default().trim_start_matches("HTTP/1.1 ").to_owned();
    let says = match (header("x-auth-error"), header("x-auth-username")) {
        (Some(error), _) => format!("X-Auth-Error: {error}"),
        (None, Some(username)) => format!("X-Auth-Username: {username}"),
        (None, None) => String::new(),
    };
    Ok(Answer { status, says })
}
