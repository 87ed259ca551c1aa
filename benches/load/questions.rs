//! What is asked, and what must be answered.

use std::sync::Arc;

/// How questions travel.
#[derive(Debug, Clone, Copy)]
pub enum Plan {
    /// One a request.
    Unary { under_way: usize },
    /// `size` a request.
    Batch { under_way: usize, size: usize },
    /// One a message of one stream.
    Stream { under_way: usize },
}

impl Plan {
    pub fn call(self) -> &'static str {
        match self {
            Self::Unary { .. } => "Authorize",
            Self::Batch { .. } => "BatchAuthorize",
            Self::Stream { .. } => "StreamAuthorize",
        }
    }
}

/// What the answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub decision: u64,
    pub reason: u64,
    /// Whether the answer names the token.
    pub named: bool,
}

pub const ALLOWED: Expected = Expected { decision: 1, reason: 1, named: true };
pub const MALFORMED: Expected = Expected { decision: 2, reason: 2, named: false };
pub const UNKNOWN: Expected = Expected { decision: 2, reason: 3, named: false };
pub const NOT_GRANTED: Expected = Expected { decision: 2, reason: 7, named: true };

/// Of a secret with the prefix that the load has, and of a token's id.
pub const SECRET: usize = 70;
const ID: usize = 26;

/// A token as it is presented, and the id that the answer must give: side by side in memory, so that
/// drawing one at random costs the generator as little as it can.
#[derive(Clone)]
pub struct Token([u8; SECRET + ID]);

impl Token {
    pub fn new(secret: &str, id: &str) -> Self {
        let mut bytes = [0; SECRET + ID];
        bytes[..SECRET].copy_from_slice(secret.as_bytes());
        bytes[SECRET..].copy_from_slice(id.as_bytes());
        Self(bytes)
    }

    pub fn secret(&self) -> &[u8] {
        &self.0[..SECRET]
    }

    pub fn id(&self) -> &[u8] {
        &self.0[SECRET..]
    }
}

/// What is asked of a server, with tokens drawn at random, or each once.
#[derive(Clone)]
pub struct Questions {
    pub tokens: Arc<[Token]>,
    /// Only this many of them, from the first.
    pub drawn: usize,
    pub client_ip: &'static str,
    pub scope: &'static str,
    pub credential: Arc<str>,
    pub expected: Expected,
    /// Whether nothing of it is use.
    pub dry_run: bool,
    /// The one id that a server which answers a constant gives.
    pub constant_id: Option<&'static str>,
    /// How long a whole answer must be, where all are equally long.
    pub answer_size: Option<usize>,
    /// The last answer that was read field by field and was right, and where the token's id lies in it: most
    /// others are the same but for that.
    pub right: Option<(Vec<u8>, usize)>,
    pub seed: u64,
    /// Every token once, in order, from this one on.
    pub once: Option<usize>,
}

type Result<T> = std::result::Result<T, String>;

impl Questions {
    /// The header block of every request but the first, which put its fields into the table.
    pub const HEAD_AGAIN: &[u8] = &[0x83, 0x86, 0xc2, 0xc1, 0xc0, 0xbf, 0xbe];

    /// The header block of a connection's first request.
    pub fn head(&self, call: &str) -> Vec<u8> {
        let mut block = vec![0x83, 0x86];
        let path = format!("/portcullis.v1.AuthorizationService/{call}");
        let bearer = format!("Bearer {}", self.credential);
        let mut field = |name: u8, value: &str| {
            block.push(0x40 | name);
            if name == 0 {
                block.extend_from_slice(b"\x02te");
            }
            let length = u8::try_from(value.len()).ok().filter(|&length| length < 127);
            block.push(length.expect("a short header"));
            block.extend_from_slice(value.as_bytes());
        };
        field(4, &path);
        field(1, "localhost");
        field(31, "application/grpc");
        field(0, "trailers");
        field(23, &bearer);
        block
    }

    /// One question as a protobuf message.
    pub fn message(&self, token: &Token) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.message_size());
        Self::append(token, &self.tail(), &mut message);
        message
    }

    fn message_size(&self) -> usize {
        6 + SECRET + self.client_ip.len() + self.scope.len() + if self.dry_run { 2 } else { 0 }
    }

    /// Of one request's, or one message's, body.
    pub fn size(&self, plan: Plan) -> usize {
        match plan {
            Plan::Unary { .. } => 5 + self.message_size(),
            Plan::Batch { size, .. } => 5 + size * self.item_size(),
            Plan::Stream { .. } => 5 + self.item_size(),
        }
    }

    fn item_size(&self) -> usize {
        let size = self.message_size();
        size + if size < 128 { 2 } else { 3 }
    }

    /// Writes a body with its gRPC prefix; gives what [`Self::check`] wants to know of it.
    pub fn write(&mut self, plan: Plan, out: &mut Vec<u8>) -> usize {
        let size = u32::try_from(self.size(plan) - 5).expect("small");
        out.push(0);
        out.extend_from_slice(&size.to_be_bytes());
        // xorshift: good enough to leave no order behind.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let first = match &mut self.once {
            None => self.seed as usize % self.drawn,
            Some(next) => {
                let first = *next;
                *next += if let Plan::Batch { size, .. } = plan { size } else { 1 };
                first
            }
        };
        let tail = self.tail();
        match plan {
            Plan::Unary { .. } => Self::append(&self.tokens[first], &tail, out),
            Plan::Batch { size, .. } => {
                for place in 0..size {
                    self.item(self.of_batch(first, place), &tail, out);
                }
            }
            Plan::Stream { .. } => self.item(first, &tail, out),
        }
        first
    }

    /// What follows the token in every question.
    fn tail(&self) -> Vec<u8> {
        let mut tail = Vec::with_capacity(64);
        for (number, text) in [(2, self.client_ip), (3, self.scope)] {
            tail.push(number << 3 | 2);
            tail.push(text.len() as u8);
            tail.extend_from_slice(text.as_bytes());
        }
        if self.dry_run {
            tail.extend_from_slice(&[5 << 3, 1]);
        }
        tail
    }

    /// One after the other, which are far from each other in the server: the load shuffles its tokens.
    fn of_batch(&self, first: usize, place: usize) -> usize {
        let token = first + place;
        if token < self.drawn { token } else { token % self.drawn }
    }

    fn item(&self, token: usize, tail: &[u8], out: &mut Vec<u8>) {
        out.push(0x0a);
        let size = self.message_size();
        if size < 128 {
            out.push(size as u8);
        } else {
            out.extend_from_slice(&[size as u8 | 0x80, (size >> 7) as u8]);
        }
        Self::append(&self.tokens[token], tail, out);
    }

    fn append(token: &Token, tail: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&[1 << 3 | 2, SECRET as u8]);
        out.extend_from_slice(token.secret());
        out.extend_from_slice(tail);
    }

    /// Checks one answer message; how many decisions it had.
    pub fn check(&mut self, plan: Plan, question: usize, message: &[u8]) -> Result<usize> {
        if let Plan::Unary { .. } = plan {
            self.check_one(question, message)?;
            return Ok(1);
        }
        let mut count = 0;
        let mut rest = message;
        while !rest.is_empty() {
            let (number, Value::Bytes(mut item)) = field(&mut rest)? else {
                return Err("an answer of another shape".to_owned());
            };
            // A batch wraps each answer once more.
            let token = match plan {
                Plan::Batch { .. } => match field(&mut item)? {
                    (1, Value::Bytes(response)) => {
                        item = response;
                        self.of_batch(question, count)
                    }
                    _ => return Err("an item of a batch failed".to_owned()),
                },
                _ => question,
            };
            if number != 1 {
                return Err("an item of a stream failed".to_owned());
            }
            self.check_one(token, item)?;
            count += 1;
        }
        Ok(count)
    }

    fn check_one(&mut self, token: usize, message: &[u8]) -> Result<()> {
        let Expected { decision: d, reason: r, named } = self.expected;
        let wanted = match (named, self.constant_id) {
            (false, _) => &[][..],
            (true, Some(id)) => id.as_bytes(),
            (true, None) => self.tokens[token].id(),
        };
        if let Some((right, at)) = &self.right
            && message.len() == right.len()
            && message[..*at] == right[..*at]
            && message[*at..at + ID] == *wanted
            && message[at + ID..] == right[at + ID..]
        {
            return Ok(());
        }
        let (mut decision, mut reason, mut id) = (0, 0, &[][..]);
        let mut rest = message;
        // The revision grows while the server runs, and builds before it had none.
        let mut size = message.len();
        while !rest.is_empty() {
            let before = rest.len();
            match field(&mut rest)? {
                (9, Value::Number(_)) => size -= before - rest.len(),
                (1, Value::Number(number)) => decision = number,
                (2, Value::Number(number)) => reason = number,
                (4, Value::Bytes(text)) => id = text,
                _ => {}
            }
        }
        if (decision, reason) != (d, r) || id != wanted {
            let [id, wanted] = [id, wanted].map(String::from_utf8_lossy);
            return Err(format!(
                "decision {decision}, reason {reason}, token {id}; expected {d}, {r}, {wanted}"
            ));
        }
        if let Some(expected) = self.answer_size.filter(|&expected| expected != size) {
            return Err(format!("an answer of {size} bytes; expected {expected}"));
        }
        if id.len() == ID {
            self.right = Some((message.to_vec(), id.as_ptr().addr() - message.as_ptr().addr()));
        }
        Ok(())
    }
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<(u64, Value<'a>)> {
    let key = varint(rest)?;
    let value = match key & 7 {
        0 => Value::Number(varint(rest)?),
        2 => {
            let length = varint(rest)? as usize;
            let (bytes, after) = rest.split_at_checked(length).ok_or("a message cut off")?;
            *rest = after;
            Value::Bytes(bytes)
        }
        _ => return Err("a field of another type".to_owned()),
    };
    Ok((key >> 3, value))
}

fn varint(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or("a message cut off")?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number too long".to_owned())
}
