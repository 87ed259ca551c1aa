//! A browser of the tester's own make: HTTP/1.1 over a socket, a cookie jar and forms. It follows no
//! redirect and forgives nothing, and sends exactly what it is told to.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test support: each test uses a part of it, and a failure here is the test's failure"
)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use url::Url;

use super::html::{self, Tag};
use super::server::Server;
use super::tls::Authority;

/// No answer within this is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// One person's browser: it keeps the cookies that it gets.
#[derive(Clone)]
pub struct Http {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    from: Option<IpAddr>,
    cookies: BTreeMap<String, String>,
}

impl Http {
    /// For the pages of `server`, over plaintext.
    pub fn new(server: &Server) -> Self {
        Self { address: server.http(), tls: None, from: None, cookies: BTreeMap::new() }
    }

    /// For the pages of `server`, over TLS to `localhost`, which `authority` vouches for.
    pub fn tls(server: &Server, authority: &Authority) -> Self {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM");
        roots.add(root).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { tls: Some(Arc::new(config)), ..Self::new(server) }
    }

    /// The same, from another address of this machine, with no cookies.
    pub fn from(&self, address: &str) -> Self {
        let from = Some(address.parse().expect("an address"));
        Self { from, cookies: BTreeMap::new(), ..self.clone() }
    }

    /// The same with no cookies.
    pub fn stranger(&self) -> Self {
        Self { cookies: BTreeMap::new(), ..self.clone() }
    }

    /// What the pages' own origin is.
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.host())
    }

    /// What `Host` says.
    pub fn host(&self) -> String {
        match self.tls {
            Some(_) => format!("localhost:{}", self.address.port()),
            None => self.address.to_string(),
        }
    }

    /// The cookies that it has.
    pub fn cookies(&self) -> &BTreeMap<String, String> {
        &self.cookies
    }

    /// The value of the session's cookie.
    #[track_caller]
    pub fn session(&self) -> &str {
        let mut values = self.cookies.values();
        let value = values.next().expect("a session");
        assert_eq!(values.next(), None, "one cookie is enough");
        value
    }

    /// Plants a cookie.
    #[must_use]
    pub fn with_cookie(mut self, name: &str, value: &str) -> Self {
        self.cookies.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Signs in, which must work.
    #[track_caller]
    pub fn sign_in(mut self, credential: &str) -> Self {
        let answer = self.post("/sign-in", &[("credential", credential), ("next", "")]);
        assert_eq!(answer.status, 303, "signing in: {answer}");
        self.session();
        self
    }

    /// Asks for a page.
    pub fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    /// Sends a form from a page of the same origin, as a browser would.
    pub fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.send("POST", path, &[], form(fields).as_bytes())
    }

    /// Sends anything. What a browser would add is added, unless `headers` have it already: there, an
    /// empty value leaves a header out.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut all = vec![
            ("host", self.host()),
            ("connection", "close".to_owned()),
            ("sec-fetch-site", "same-origin".to_owned()),
        ];
        let cookies: Vec<_> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        all.push(("cookie", cookies.join("; ")));
        if method != "GET" && method != "HEAD" {
            all.push(("origin", self.origin()));
            all.push(("content-type", "application/x-www-form-urlencoded".to_owned()));
            all.push(("content-length", body.len().to_string()));
        }
        all.retain(|(name, _)| !headers.iter().any(|(given, _)| given == name));
        all.extend(headers.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let mut request = format!("{method} {path} HTTP/1.1\r\n");
        for (name, value) in all.iter().filter(|(_, value)| !value.is_empty()) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        let answer = self.exchange(&bytes);
        let mut answer = Answer::read(&answer, method == "HEAD");
        answer.asked = format!("{method} {path}");
        for cookie in answer.all("set-cookie") {
            let (pair, attributes) = cookie.split_once(';').unwrap_or((cookie, ""));
            let (name, value) = pair.split_once('=').expect("a cookie has a value");
            if value.is_empty() || attributes.to_ascii_lowercase().contains("max-age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }

    /// Sends bytes and gives all that comes back.
    pub fn exchange(&self, request: &[u8]) -> Vec<u8> {
        let stream = self.connect();
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        match &self.tls {
            None => talk(stream, request),
            Some(config) => {
                let name = ServerName::try_from("localhost").expect("a name");
                let client = ClientConnection::new(config.clone(), name).expect("a client");
                talk(StreamOwned::new(client, stream), request)
            }
        }
    }

    fn connect(&self) -> TcpStream {
        let Some(from) = self.from else {
            return TcpStream::connect(self.address).expect("the HTTP listener");
        };
        let address = self.address;
        // Only tokio's sockets can be bound before they connect; a thread of its own, since whoever
        // calls may be in a runtime.
        let connected = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
                socket.bind((from, 0).into()).expect("an address of this machine");
                let stream = socket.connect(address).await.expect("the HTTP listener");
                stream.into_std().expect("a stream")
            })
        });
        let stream = connected.join().expect("a connection");
        stream.set_nonblocking(false).expect("a stream that waits");
        stream
    }
}

/// A server may answer, and close, before it has read everything.
fn talk(mut stream: impl Read + Write, request: &[u8]) -> Vec<u8> {
    let _ = stream.write_all(request).and_then(|()| stream.flush());
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert!(!answer.is_empty(), "no answer: {error}");
    }
    answer
}

/// What a form sends.
pub fn form(fields: &[(&str, &str)]) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let pairs = fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// What the server said.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The request, for messages.
    pub asked: String,
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Less what a transfer encoding adds.
    pub body: Vec<u8>,
}

impl Answer {
    fn read(bytes: &[u8], without_body: bool) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {}", String::from_utf8_lossy(bytes)));
        let head = std::str::from_utf8(&bytes[..end]).expect("a head in ASCII");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
        let headers = lines
            .map(|line| line.split_once(':').expect("a header"))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut answer = Self {
            asked: String::new(),
            status: status.parse().expect("a status"),
            headers,
            body: bytes[end + 4..].to_vec(),
        };
        if without_body {
            assert!(answer.body.is_empty(), "an answer to HEAD has a body");
        } else if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = unchunked(&answer.body);
        } else if let Some(length) = answer.header("content-length") {
            assert_eq!(length, answer.body.len().to_string(), "the body broke off");
        }
        answer
    }

    /// A header that is there once, or not at all.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} stands twice: {self}");
        all.first().copied()
    }

    /// Every header of that name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let fits = self.headers.iter().filter(|(known, _)| known == name);
        fits.map(|(_, value)| value.as_str()).collect()
    }

    /// That it has this status.
    #[track_caller]
    pub fn says(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// Where it sends the browser.
    #[track_caller]
    pub fn location(&self) -> &str {
        self.header("location").unwrap_or_else(|| panic!("no Location: {self}"))
    }

    /// Its body.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    /// Its tags.
    #[track_caller]
    pub fn tags(&self) -> Vec<Tag> {
        html::tags(self.text())
    }

    /// What a person reads of it.
    #[track_caller]
    pub fn words(&self) -> String {
        html::words(self.text())
    }

    /// That a person reads all of these on it.
    #[track_caller]
    pub fn shows(self, parts: &[&str]) -> Self {
        let words = self.words();
        for part in parts {
            assert!(words.contains(part), "`{part}` is not shown: {self}");
        }
        self
    }

    /// The value of a form's field.
    #[track_caller]
    pub fn field(&self, name: &str) -> String {
        self.try_field(name).unwrap_or_else(|| panic!("no field `{name}`: {self}"))
    }

    /// The value of a form's field, where there is one.
    #[track_caller]
    pub fn try_field(&self, name: &str) -> Option<String> {
        let tags = self.tags();
        let field = tags.iter().find(|tag| {
            ["input", "textarea"].contains(&tag.name.as_str()) && tag.is("name", name)
        })?;
        let value = if field.name == "textarea" { &field.text } else { field.get("value")? };
        Some(value.to_owned())
    }

    /// Paths on this server that it links to or loads, each once.
    #[track_caller]
    pub fn links(&self) -> Vec<String> {
        let own = Url::parse("http://here").expect("a URL");
        let page = own.join(self.asked.split(' ').nth(1).unwrap_or_default()).expect("a URL");
        let mut links: Vec<String> = Vec::new();
        for tag in self.tags() {
            let Some(link) = tag.get("href").or(tag.get("src")) else { continue };
            let link = page.join(link).unwrap_or_else(|error| panic!("{link}: {error}"));
            if link.origin() == own.origin() && !link.as_str().starts_with("mailto:") {
                let query = link.query().map_or(String::new(), |query| format!("?{query}"));
                let path = format!("{}{query}", link.path());
                if !links.contains(&path) {
                    links.push(path);
                }
            }
        }
        links
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n{}", self.asked, self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {value}")?;
        }
        write!(f, "\n{}", String::from_utf8_lossy(&self.body))
    }
}

/// As a browser reads a parameter of a URL.
pub fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8().expect("UTF-8").into_owned()
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = bytes.windows(2).position(|two| two == b"\r\n").expect("a chunk's size");
        let size = std::str::from_utf8(&bytes[..line]).expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a size");
        bytes = &bytes[line + 2..];
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&bytes[..size]);
        bytes = &bytes[size + 2..];
    }
}
