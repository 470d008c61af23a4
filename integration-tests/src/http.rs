//! A plain HTTP/1.1 client that hides nothing.
//!
//! Real clients send a request again, without a word, when a kept connection turns out to be closed. A test that counts lost
//! requests must not: here each request is sent once, and a connection that is closed without an answer is a
//! failure, unless the answer before it had announced that with `Connection: close`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// How long any one request may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The first header of this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A client with one kept connection.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    /// A client of the server at `address`; connects with the first request.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            connection: None,
        }
    }

    /// Sends one request and reads its answer.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub async fn request(&mut self, method: &str, host: &str, path: &str, body: &str) -> io::Result<Answer> {
        let result = tokio::time::timeout(DEADLINE, self.exchange(method, host, path, body)).await;
        let result =
            result.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in 20 s")));
        let closing = |answer: &Answer| {
            answer
                .header("connection")
                .is_some_and(|c| c.eq_ignore_ascii_case("close"))
        };
        if result.as_ref().map_or(true, closing) {
            self.connection = None;
        }
        result
    }

    async fn exchange(&mut self, method: &str, host: &str, path: &str, body: &str) -> io::Result<Answer> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(BufReader::new(TcpStream::connect(self.address).await?)),
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.get_mut().write_all(request.as_bytes()).await?;
        let status = line(connection).await?;
        let status = status
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .ok_or_else(malformed)?;
        let mut headers = Vec::new();
        loop {
            let line = line(connection).await?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(malformed)?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer {
            status,
            headers,
            body: String::new(),
        };
        if method != "HEAD" {
            let chunked = answer
                .header("transfer-encoding")
                .is_some_and(|encoding| encoding == "chunked");
            let body = if chunked {
                chunks(connection).await?
            } else {
                let length = answer.header("content-length").unwrap_or("0");
                exactly(connection, length.parse().map_err(|_| malformed())?).await?
            };
            answer.body = String::from_utf8_lossy(&body).into_owned();
        }
        Ok(answer)
    }
}

async fn exactly(connection: &mut BufReader<TcpStream>, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    connection.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// A body in chunks (RFC 9112, section 7.1), without trailers.
async fn chunks(connection: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let length = usize::from_str_radix(&line(connection).await?, 16).map_err(|_| malformed())?;
        body.extend(exactly(connection, length).await?);
        // The end of the chunk, or of the body.
        line(connection).await?;
        if length == 0 {
            return Ok(body);
        }
    }
}

async fn line(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if connection.read_line(&mut line).await? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "closed without an answer",
        ));
    }
    Ok(line.trim_end().to_owned())
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer")
}

/// One GET on a connection of its own.
///
/// # Errors
/// When there is no complete answer.
pub async fn get(address: SocketAddr, host: &str, path: &str) -> io::Result<Answer> {
    Client::new(address).request("GET", host, path, "").await
}

/// One GET whose answer must be JSON.
///
/// # Errors
/// When there is no answer, or none with status 200 and JSON.
pub async fn get_json(address: SocketAddr, path: &str) -> Result<serde_json::Value, String> {
    let answer = get(address, "localhost", path)
        .await
        .map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!("{path} answers {}: {}", answer.status, answer.body));
    }
    serde_json::from_str(&answer.body).map_err(|error| error.to_string())
}

/// Opens a websocket, sends one short text and gives the first one that comes back (RFC 6455).
///
/// # Errors
/// When the server does not switch protocols, or sends something else.
///
/// # Panics
/// When `text` is longer than 125 bytes: those need another framing.
pub async fn websocket_echo(address: SocketAddr, host: &str, path: &str, text: &str) -> io::Result<String> {
    assert!(text.len() <= 125);
    let mut connection = BufReader::new(TcpStream::connect(address).await?);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    connection.get_mut().write_all(request.as_bytes()).await?;
    if !line(&mut connection).await?.contains(" 101 ") {
        return Err(malformed());
    }
    while !line(&mut connection).await?.is_empty() {}
    // A final text frame, masked with zeros as only clients' frames are.
    let length = u8::try_from(text.len()).map_err(|_| malformed())?;
    let frame = [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat();
    connection.get_mut().write_all(&frame).await?;
    let mut head = [0; 2];
    connection.read_exact(&mut head).await?;
    let mut payload = vec![0; usize::from(head[1])];
    connection.read_exact(&mut payload).await?;
    Ok(String::from_utf8_lossy(&payload).into_owned())
}
