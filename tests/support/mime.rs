//! A message that was received, taken apart: enough of MIME for what Portcullis writes.

use std::fmt;

use portcullis::clock::Stopwatch;

/// A message as it came.
#[derive(Clone)]
pub struct Received {
    /// Of MAIL FROM.
    pub from: String,
    /// Of RCPT TO.
    pub to: Vec<String>,
    /// Headers and body, without dot-stuffing.
    pub bytes: Vec<u8>,
    /// Over which connection it came, counted from 1.
    pub connection: usize,
    /// Whether it was answered that it is.
    pub accepted: bool,
    /// Started when it was here whole.
    pub came: Stopwatch,
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("to", &self.to)
            .field("subject", &self.header("Subject"))
            .field("accepted", &self.accepted)
            .finish_non_exhaustive()
    }
}

impl Received {
    /// As it came, which is UTF-8 here.
    pub fn raw(&self) -> &str {
        std::str::from_utf8(&self.bytes).expect("UTF-8")
    }

    /// A header's value, on one line and decoded.
    pub fn header(&self, name: &str) -> Option<String> {
        header(self.raw(), name)
    }

    /// All headers, in order.
    pub fn headers(&self) -> Vec<(String, String)> {
        headers(self.raw())
    }

    /// The plain text, with `\n` at the ends of lines.
    pub fn text(&self) -> String {
        self.part("text/plain")
    }

    /// The HTML.
    pub fn html(&self) -> String {
        self.part("text/html")
    }

    fn part(&self, kind: &str) -> String {
        let content_type = self.header("Content-Type").expect("a content type");
        let boundary = content_type.split("boundary=\"").nth(1).expect("a boundary");
        let boundary = format!("--{}", boundary.split('"').next().expect("its end"));
        let body = self.raw().split_once("\r\n\r\n").expect("a body").1;
        let part = body
            .split(&boundary)
            .map(str::trim_start)
            .find(|part| header(part, "Content-Type").is_some_and(|found| found.starts_with(kind)))
            .unwrap_or_else(|| panic!("no {kind} in {body}"));
        let content = part.split_once("\r\n\r\n").expect("a body").1;
        let content = content.strip_suffix("\r\n").unwrap_or(content);
        let bytes = match header(part, "Content-Transfer-Encoding").as_deref() {
            Some("quoted-printable") => quoted_printable(content, false),
            Some("base64") => base64(content),
            Some("7bit") => content.as_bytes().to_vec(),
            other => panic!("{other:?} is not what is sent"),
        };
        String::from_utf8(bytes).expect("UTF-8").replace("\r\n", "\n")
    }
}

fn header(message: &str, name: &str) -> Option<String> {
    let found = headers(message).into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value)
}

fn headers(message: &str) -> Vec<(String, String)> {
    let head = message.split("\r\n\r\n").next().unwrap_or_default();
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in head.split("\r\n") {
        match (line.starts_with([' ', '\t']), headers.last_mut()) {
            (true, Some((_, value))) => value.push_str(line),
            _ => {
                let (name, value) = line.split_once(": ").unwrap_or((line, ""));
                headers.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    for (_, value) in &mut headers {
        *value = words(value);
    }
    headers
}

/// With its encoded words decoded (RFC 2047); white space between two of them is none.
fn words(value: &str) -> String {
    let mut bytes: Vec<u8> = Vec::new();
    let mut rest = value;
    let mut after_word = false;
    while let Some((before, word)) = rest.split_once("=?utf-8?") {
        if !(after_word && before.trim().is_empty()) {
            bytes.extend(before.as_bytes());
        }
        let (encoding, word) = word.split_once('?').expect("an encoding");
        let (text, after) = word.split_once("?=").expect("an end");
        bytes.extend(match encoding {
            "b" | "B" => base64(text),
            _ => quoted_printable(text, true),
        });
        (rest, after_word) = (after, true);
    }
    bytes.extend(rest.as_bytes());
    String::from_utf8(bytes).expect("UTF-8")
}

fn quoted_printable(text: &str, in_header: bool) -> Vec<u8> {
    let text = text.replace("=\r\n", "");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        match first {
            b'=' => {
                let digits = std::str::from_utf8(&after[..2]).expect("digits");
                bytes.push(u8::from_str_radix(digits, 16).expect("digits"));
                rest = &after[2..];
                continue;
            }
            b'_' if in_header => bytes.push(b' '),
            byte => bytes.push(*byte),
        }
        rest = after;
    }
    bytes
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for digit in text.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b'=') {
        let value = DIGITS.iter().position(|known| *known == digit).expect("base 64");
        bits = bits << 6 | value as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}
