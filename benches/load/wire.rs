//! A gRPC client over HTTP/2 that costs next to nothing, so that the server is what is measured:
//! requests are copied together from parts made before, answers read in place. No I/O in here.
//!
//! Must stay true: an answer counts only when its HTTP and gRPC status are OK and every decision in
//! it is the expected one, for the expected token; the first that is not ends the measurement.

use std::time::{Duration, Instant};

use super::hpack::{Decoder, Said};
use super::questions::{Plan, Questions};

/// Room for answers: the server is never kept waiting for it.
const WINDOW: u32 = 1 << 30;
/// The most that one frame may carry before the server says otherwise, which none does.
const FRAME: usize = 16_384;
/// More than ever are under way, times a few, so that a slow answer keeps its place.
const SLOTS: usize = 4_096;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

type Result<T> = std::result::Result<T, String>;

#[derive(Default)]
struct Slot {
    stream: u32,
    began: Option<Instant>,
    /// The first question, and how many follow it.
    question: usize,
    /// What came of an answer that is not whole yet.
    part: Vec<u8>,
    answered: usize,
    status: Said,
}

/// What a connection has measured.
#[derive(Default)]
pub struct Tally {
    /// Decisions that were right.
    pub decisions: u64,
    /// How long each request took; in a stream, each message.
    pub took: Vec<u32>,
}

/// One connection.
pub struct Connection {
    questions: Questions,
    plan: Plan,
    /// To be sent.
    pub out: Vec<u8>,
    head: Vec<u8>,
    opened: bool,
    next_stream: u32,
    slots: Vec<Slot>,
    pub under_way: usize,
    sent: u64,
    window: i64,
    stream_window: i64,
    first_window: i64,
    unread: u32,
    decoder: Decoder,
    /// For a stream: when each message under way was sent, the oldest first, with its question.
    stream: std::collections::VecDeque<(usize, Instant)>,
    stream_closed: bool,
    pub tally: Tally,
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a frame of ours is small").to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

impl Connection {
    pub fn new(questions: Questions, plan: Plan) -> Self {
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // INITIAL_WINDOW_SIZE, and no pushes.
        let mut settings = vec![0, 4];
        settings.extend_from_slice(&WINDOW.to_be_bytes());
        settings.extend_from_slice(&[0, 2, 0, 0, 0, 0]);
        frame(&mut out, SETTINGS, 0, 0, &settings);
        frame(&mut out, WINDOW_UPDATE, 0, 0, &(WINDOW - 65_535).to_be_bytes());
        Self {
            head: questions.head(plan.call()),
            questions,
            plan,
            out,
            opened: false,
            next_stream: 1,
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
            under_way: 0,
            sent: 0,
            window: 65_535,
            stream_window: 65_535,
            first_window: 65_535,
            unread: 0,
            decoder: Decoder::default(),
            stream: std::collections::VecDeque::new(),
            stream_closed: false,
            tally: Tally::default(),
        }
    }

    /// Puts as many requests into `out` as the plan wants under way, of at most `most` in all.
    pub fn ask(&mut self, most: u64) {
        match self.plan {
            Plan::Stream { under_way } => self.ask_on(most, under_way),
            Plan::Unary { under_way } | Plan::Batch { under_way, .. } => {
                while self.under_way < under_way && self.sent < most && self.request() {}
            }
        }
    }

    fn request(&mut self) -> bool {
        let place = (self.next_stream >> 1) as usize % SLOTS;
        let size = self.questions.size(self.plan);
        let fits = self.window.min(self.first_window) >= i64::try_from(size).expect("small");
        if self.slots[place].stream != 0 || !fits {
            return false;
        }
        let stream = self.next_stream;
        self.open(stream);
        let out = &mut self.out;
        let mut body = Vec::with_capacity(size);
        let question = self.questions.write(self.plan, &mut body);
        // One frame where it fits, as nearly always; else the later parts get heads of their own.
        let parts = body.chunks(FRAME).count();
        for (part, bytes) in body.chunks(FRAME).enumerate() {
            let last = if part + 1 == parts { END_STREAM } else { 0 };
            frame(out, DATA, last, stream, bytes);
        }
        self.window -= i64::try_from(body.len()).expect("small");
        let slot = &mut self.slots[place];
        slot.stream = stream;
        slot.began = Some(Instant::now());
        slot.question = question;
        slot.answered = 0;
        slot.part.clear();
        slot.status = Said::default();
        self.next_stream += 2;
        self.under_way += 1;
        self.sent += 1;
        true
    }

    fn open(&mut self, stream: u32) {
        if self.opened {
            frame(&mut self.out, HEADERS, END_HEADERS, stream, Questions::HEAD_AGAIN);
        } else {
            frame(&mut self.out, HEADERS, END_HEADERS, stream, &self.head);
            self.opened = true;
        }
    }

    fn ask_on(&mut self, most: u64, under_way: usize) {
        if self.slots[0].stream == 0 && !self.stream_closed {
            self.open(1);
            // Stream 1 falls into the first place.
            self.slots[0].stream = 1;
            self.slots[0].status = Said::default();
            self.stream_window = self.first_window;
            self.under_way = 1;
        }
        if self.stream_closed {
            return;
        }
        let size = self.questions.size(self.plan);
        let room = usize::try_from(self.window.min(self.stream_window).max(0)).expect("positive");
        let most = usize::try_from(most.saturating_sub(self.sent)).unwrap_or(usize::MAX);
        let now = Instant::now();
        let mut count = under_way.saturating_sub(self.stream.len()).min(room / size).min(most);
        while count > 0 {
            let some = count.min(FRAME / size);
            let mut body = Vec::with_capacity(some * size);
            for _ in 0..some {
                let question = self.questions.write(self.plan, &mut body);
                self.stream.push_back((question, now));
            }
            frame(&mut self.out, DATA, 0, 1, &body);
            let length = i64::try_from(body.len()).expect("small");
            self.window -= length;
            self.stream_window -= length;
            self.sent += some as u64;
            count -= some;
        }
    }

    /// Ends a stream, once all its messages are answered.
    pub fn close_stream(&mut self) {
        if matches!(self.plan, Plan::Stream { .. }) && self.stream.is_empty() && !self.stream_closed
        {
            self.stream_closed = true;
            if self.slots[0].stream != 0 {
                frame(&mut self.out, DATA, END_STREAM, 1, &[]);
            }
        }
    }

    /// Whether `most` requests were sent.
    pub fn done(&self, most: u64) -> bool {
        self.sent >= most
    }

    /// Whether nothing is waited for.
    pub fn idle(&self) -> bool {
        self.under_way == 0
    }

    /// Takes whole frames off the front of `bytes`; how many bytes they were.
    pub fn answers(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut at = 0;
        let now = Instant::now();
        while let Some(head) = bytes.get(at..at + 9) {
            let length =
                usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let Some(payload) = bytes.get(at + 9..at + 9 + length) else { break };
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            self.frame(head[3], head[4], stream, payload, now)?;
            at += 9 + length;
        }
        if self.unread > WINDOW / 4 {
            let unread = std::mem::take(&mut self.unread).to_be_bytes();
            frame(&mut self.out, WINDOW_UPDATE, 0, 0, &unread);
            if matches!(self.plan, Plan::Stream { .. }) && !self.stream_closed {
                frame(&mut self.out, WINDOW_UPDATE, 0, 1, &unread);
            }
        }
        Ok(at)
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        now: Instant,
    ) -> Result<()> {
        let place = (stream >> 1) as usize % SLOTS;
        match kind {
            DATA => {
                self.unread += u32::try_from(payload.len()).expect("a frame");
                if self.slots[place].stream != stream {
                    return Err("data of an unknown stream".to_owned());
                }
                if flags & END_STREAM != 0 {
                    return Err("an answer without trailers".to_owned());
                }
                self.data(place, payload, now)
            }
            HEADERS => {
                if flags & END_HEADERS == 0 || flags & 0x28 != 0 {
                    return Err("a header block in parts, or padded".to_owned());
                }
                let said = self.decoder.read(payload)?;
                let slot = &mut self.slots[place];
                if slot.stream != stream {
                    return Err("headers of an unknown stream".to_owned());
                }
                slot.status.http = said.http.or(slot.status.http);
                slot.status.grpc = said.grpc.or(slot.status.grpc);
                if flags & END_STREAM != 0 {
                    return self.end(place, now);
                }
                Ok(())
            }
            RST_STREAM => Err("the server reset a stream".to_owned()),
            GOAWAY => Err("the server closes the connection".to_owned()),
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks_exact(6) {
                    if setting[..2] == [0, 4] {
                        let size = u32::from_be_bytes(setting[2..].try_into().expect("4 bytes"));
                        self.stream_window += i64::from(size) - self.first_window;
                        self.first_window = size.into();
                    }
                }
                frame(&mut self.out, SETTINGS, ACK, 0, &[]);
                Ok(())
            }
            PING if flags & ACK == 0 => {
                frame(&mut self.out, PING, ACK, 0, payload);
                Ok(())
            }
            WINDOW_UPDATE => {
                let more = payload.try_into().map_err(|_| "a bad window update".to_owned())?;
                let more = i64::from(u32::from_be_bytes(more));
                match stream {
                    0 => self.window += more,
                    _ => self.stream_window += more,
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Messages of an answer: whole ones are checked where they are.
    fn data(&mut self, place: usize, payload: &[u8], now: Instant) -> Result<()> {
        let Self { slots, questions, plan, stream, tally, .. } = self;
        let slot = &mut slots[place];
        let mut kept = std::mem::take(&mut slot.part);
        let mut rest = if kept.is_empty() {
            payload
        } else {
            kept.extend_from_slice(payload);
            &kept
        };
        while let Some(head) = rest.get(..5) {
            if head[0] != 0 {
                return Err("a compressed answer".to_owned());
            }
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let Some(message) = rest.get(5..5 + length) else { break };
            rest = &rest[5 + length..];
            if let Plan::Stream { .. } = plan {
                let (question, began) = stream.pop_front().ok_or("an answer to no question")?;
                questions.check(*plan, question, message)?;
                tally.decisions += 1;
                tally.took.push(nanos(now - began));
            } else {
                slot.answered += questions.check(*plan, slot.question, message)?;
            }
        }
        slot.part = rest.to_vec();
        Ok(())
    }

    fn end(&mut self, place: usize, now: Instant) -> Result<()> {
        let slot = &mut self.slots[place];
        let wanted = match self.plan {
            Plan::Unary { .. } => 1,
            Plan::Batch { size, .. } => size,
            Plan::Stream { .. } => 0,
        };
        let fine = slot.status == Said { http: Some(200), grpc: Some(0) };
        if !fine || slot.answered != wanted || !slot.part.is_empty() {
            return Err(format!(
                "HTTP {:?}, gRPC {:?}, {} of {wanted} decisions",
                slot.status.http, slot.status.grpc, slot.answered
            ));
        }
        slot.stream = 0;
        self.under_way -= 1;
        if wanted > 0 {
            self.tally.decisions += wanted as u64;
            let began = slot.began.take().ok_or("an answer to no request")?;
            self.tally.took.push(nanos(now - began));
        }
        Ok(())
    }
}

fn nanos(took: Duration) -> u32 {
    u32::try_from(took.as_nanos()).unwrap_or(u32::MAX)
}
