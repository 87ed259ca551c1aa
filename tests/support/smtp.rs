//! A mail server that keeps what it gets, and misbehaves where it is told to. It runs in a thread of
//! its own, so that tests with and without a runtime can use it.
//!
//! ```ignore
//! let sink = Sink::start();
//! sink.at(Step::Rcpt).to("bob@acme.example").times(2).says("450 4.2.1 busy");
//! sink.at(Step::Content).hangs_up();
//! // ... mail through sink.url() ...
//! assert_eq!(sink.wait_for(1)[0].header("Subject").as_deref(), Some("Hello"));
//! ```

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use portcullis::clock::Stopwatch;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

pub use super::mime::Received;

/// Longer than any test should wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a client does, and what an answer can be scripted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It connected, and is to be greeted.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS, which this server doesn't speak.
    StartTls,
    /// AUTH, which is believed without a look.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA.
    Data,
    /// The message, after its final dot.
    Content,
    /// RSET.
    Rset,
    /// QUIT.
    Quit,
    /// Anything else.
    Other,
}

#[derive(Debug, Clone)]
enum Answer {
    Say(String),
    Stall,
    HangUp,
}

#[derive(Debug)]
struct Rule {
    step: Step,
    recipient: Option<String>,
    left: Option<usize>,
    answer: Answer,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    offers: Vec<String>,
    messages: Vec<Received>,
    commands: Vec<String>,
    connections: usize,
    open: usize,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The server. It ends with the test's process.
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Sink {
    /// Starts one on a free port of 127.0.0.1. It offers 8BITMIME and SMTPUTF8 and takes everything.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("a socket of a runtime");
        let offers = ["8BITMIME", "SMTPUTF8"].map(str::to_owned).to_vec();
        let state = Mutex::new(State { offers, ..State::default() });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let serving = shared.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                while let Ok((stream, _)) = listener.accept().await {
                    let shared = serving.clone();
                    tokio::spawn(async move {
                        let number = shared.update(|state| {
                            state.connections += 1;
                            state.open += 1;
                            state.connections
                        });
                        // A client that is gone has had its way.
                        let _ = Session::new(stream, &shared, number).serve().await;
                        shared.update(|state| state.open -= 1);
                    });
                }
            });
        });
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For PORTCULLIS_SMTP_URL.
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// Offers these keywords to EHLO, and no others.
    pub fn offer(&self, keywords: &[&str]) {
        let keywords = keywords.iter().map(|&keyword| keyword.to_owned()).collect();
        self.shared.update(|state| state.offers = keywords);
    }

    /// Begins a rule for what is answered at `step`. Of several that fit, the oldest holds.
    pub fn at(&self, step: Step) -> RuleFor<'_> {
        RuleFor { sink: self, step, recipient: None, times: None }
    }

    /// Forgets all rules.
    pub fn behave(&self) {
        self.shared.update(|state| state.rules.clear());
    }

    /// The messages that it accepted, in order.
    pub fn messages(&self) -> Vec<Received> {
        self.everything().into_iter().filter(|message| message.accepted).collect()
    }

    /// Also those that it got whole and did not accept.
    pub fn everything(&self) -> Vec<Received> {
        self.shared.update(|state| state.messages.clone())
    }

    /// Waits until it has accepted at least `count`.
    ///
    /// # Panics
    /// After a minute.
    pub fn wait_for(&self, count: usize) -> Vec<Received> {
        self.wait_until(|messages| messages.len() >= count)
    }

    /// Waits until the messages that it accepted are as wanted.
    ///
    /// # Panics
    /// After a minute.
    pub fn wait_until(&self, wanted: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let accepted = |state: &State| -> Vec<Received> {
            state.messages.iter().filter(|message| message.accepted).cloned().collect()
        };
        let state = self.shared.state.lock().expect("no poison");
        let (state, waited) = self
            .shared
            .changed
            .wait_timeout_while(state, PATIENCE, |state| !wanted(&accepted(state)))
            .expect("no poison");
        let messages = accepted(&state);
        assert!(!waited.timed_out(), "no such mails within a minute; there are {messages:#?}");
        messages
    }

    /// Waits until `count` connections are open.
    ///
    /// # Panics
    /// After a minute.
    pub fn wait_for_open(&self, count: usize) {
        let state = self.shared.state.lock().expect("no poison");
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, PATIENCE, |state| state.open != count)
            .expect("no poison");
        assert!(!waited.1.timed_out(), "{} connections are open, not {count}", waited.0.open);
    }

    /// How often it was connected to.
    pub fn connections(&self) -> usize {
        self.shared.update(|state| state.connections)
    }

    /// Every command that it got, as it came.
    pub fn commands(&self) -> Vec<String> {
        self.shared.update(|state| state.commands.clone())
    }
}

/// A rule under way.
pub struct RuleFor<'a> {
    sink: &'a Sink,
    step: Step,
    recipient: Option<String>,
    times: Option<usize>,
}

impl RuleFor<'_> {
    /// Only while mail for this recipient is handed over: for RCPT, DATA and the message.
    pub fn to(mut self, recipient: &str) -> Self {
        self.recipient = Some(recipient.to_owned());
        self
    }

    /// Only so often; else from now on.
    pub fn times(mut self, times: usize) -> Self {
        self.times = Some(times);
        self
    }

    /// Answers this, a code and a text, or several lines of that.
    pub fn says(self, answer: &str) {
        self.add(Answer::Say(answer.to_owned()));
    }

    /// Never answers.
    pub fn stalls(self) {
        self.add(Answer::Stall);
    }

    /// Closes the connection instead of answering.
    pub fn hangs_up(self) {
        self.add(Answer::HangUp);
    }

    fn add(self, answer: Answer) {
        let Self { sink, step, recipient, times } = self;
        let rule = Rule { step, recipient, left: times, answer };
        sink.shared.update(|state| state.rules.push(rule));
    }
}

impl Shared {
    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().expect("no poison"));
        self.changed.notify_all();
        result
    }

    /// What is scripted for `step`.
    fn scripted(&self, step: Step, recipients: &[String]) -> Option<Answer> {
        self.update(|state| {
            let rule = state.rules.iter_mut().find(|rule| {
                rule.step == step
                    && rule.left != Some(0)
                    && rule.recipient.as_ref().is_none_or(|to| recipients.contains(to))
            })?;
            if let Some(left) = &mut rule.left {
                *left -= 1;
            }
            Some(rule.answer.clone())
        })
    }
}

struct Session<'a> {
    stream: BufReader<TcpStream>,
    shared: &'a Shared,
    number: usize,
    from: String,
    to: Vec<String>,
}

/// The connection is at its end.
struct End;

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

impl<'a> Session<'a> {
    fn new(stream: TcpStream, shared: &'a Shared, number: usize) -> Self {
        let stream = BufReader::new(stream);
        Self { stream, shared, number, from: String::new(), to: Vec::new() }
    }

    async fn serve(mut self) -> Result<(), End> {
        self.answer(Step::Greeting, "220 sink ESMTP").await?;
        loop {
            let line = String::from_utf8_lossy(&self.line().await?).trim_end().to_owned();
            self.shared.update(|state| state.commands.push(line.clone()));
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" | "HELO" => {
                    let mut lines = vec!["sink".to_owned()];
                    lines.extend(self.shared.update(|state| state.offers.clone()));
                    let last = lines.pop().unwrap_or_default();
                    let lines: String =
                        lines.iter().map(|line| format!("250-{line}\r\n")).collect();
                    self.answer(Step::Ehlo, &format!("{lines}250 {last}")).await?;
                }
                "STARTTLS" => {
                    self.answer(Step::StartTls, "502 5.5.1 not here").await?;
                }
                "AUTH" => {
                    self.answer(Step::Auth, "235 2.7.0 welcome").await?;
                }
                "MAIL" => {
                    (self.from, self.to) = (path(&line), Vec::new());
                    self.answer(Step::Mail, "250 2.1.0 ok").await?;
                }
                "RCPT" => {
                    self.to.push(path(&line));
                    if !self.answer(Step::Rcpt, "250 2.1.5 ok").await? {
                        self.to.pop();
                    }
                }
                "DATA" if self.to.is_empty() => self.say("503 5.5.1 to whom?").await?,
                "DATA" => {
                    if self.answer(Step::Data, "354 go ahead").await? {
                        self.content().await?;
                    }
                }
                "RSET" => {
                    (self.from, self.to) = (String::new(), Vec::new());
                    self.answer(Step::Rset, "250 2.0.0 ok").await?;
                }
                "QUIT" => {
                    self.answer(Step::Quit, "221 2.0.0 bye").await?;
                    return Ok(());
                }
                _ => {
                    self.answer(Step::Other, "500 5.5.1 what?").await?;
                }
            }
        }
    }

    async fn content(&mut self) -> Result<(), End> {
        let mut bytes = Vec::new();
        loop {
            let line = self.line().await?;
            match line.as_slice() {
                b".\r\n" => break,
                [b'.', rest @ ..] => bytes.extend_from_slice(rest),
                line => bytes.extend_from_slice(line),
            }
        }
        let (from, to) = (std::mem::take(&mut self.from), self.to.clone());
        let came = Stopwatch::start();
        let connection = self.number;
        let message = Received { from, to, bytes, connection, accepted: false, came };
        let at = self.shared.update(|state| {
            state.messages.push(message);
            state.messages.len() - 1
        });
        // What waits for the message may look as soon as the answer is on its way.
        let scripted = self.shared.scripted(Step::Content, &self.to);
        if scripted
            .as_ref()
            .is_none_or(|answer| matches!(answer, Answer::Say(text) if text.starts_with('2')))
        {
            self.shared.update(|state| state.messages[at].accepted = true);
        }
        self.to.clear();
        self.give(scripted, "250 2.0.0 taken").await?;
        Ok(())
    }

    async fn line(&mut self) -> Result<Vec<u8>, End> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await?;
        if line.last() == Some(&b'\n') { Ok(line) } else { Err(End) }
    }

    /// Answers what is scripted, else `usual`. Whether that was a yes.
    async fn answer(&mut self, step: Step, usual: &str) -> Result<bool, End> {
        let scripted = self.shared.scripted(step, &self.to);
        self.give(scripted, usual).await
    }

    async fn give(&mut self, scripted: Option<Answer>, usual: &str) -> Result<bool, End> {
        match scripted {
            None => self.say(usual).await.map(|()| true),
            Some(Answer::Say(text)) => {
                self.say(&text).await?;
                Ok(text.starts_with(['2', '3']))
            }
            Some(Answer::HangUp) => Err(End),
            Some(Answer::Stall) => {
                // Until the client hangs up.
                while self.line().await.is_ok() {}
                Err(End)
            }
        }
    }

    async fn say(&mut self, text: &str) -> Result<(), End> {
        Ok(self.stream.write_all(format!("{text}\r\n").as_bytes()).await?)
    }
}

/// What stands between `<` and `>`.
fn path(line: &str) -> String {
    let path = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    path.map_or(String::new(), |(path, _)| path.to_owned())
}
