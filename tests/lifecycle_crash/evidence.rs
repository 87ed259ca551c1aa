//! What is left after the last kill, and what it must show.

use std::collections::{BTreeMap, BTreeSet};

use portcullis::grpc::proto::{AuditEvent, Token};
use prost_types::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use crate::lifecycle_crash::worker::Worker;

/// `--lifecycle-notice`, in microseconds.
const NOTICE: i64 = 1_000_000;
/// What two clocks of one machine may be apart.
const SLACK: i64 = 10_000;

/// Every mail about an action.
pub(crate) const MAILS: &str = "\
    SELECT mail_id, kind, pending_action_id, recipient, state, accept_time FROM mail";

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct MailRow {
    mail_id: Uuid,
    kind: String,
    pending_action_id: Option<Uuid>,
    recipient: String,
    state: String,
    accept_time: Option<i64>,
}

impl MailRow {
    pub(crate) fn waits(&self) -> bool {
        self.state == "queued" || self.state == "failing"
    }
}

/// See the module.
pub(crate) struct Evidence {
    /// The audit record, the oldest first.
    pub(crate) events: Vec<AuditEvent>,
    pub(crate) tokens: Vec<Token>,
    /// What the database says of mails.
    pub(crate) mails: Vec<MailRow>,
    /// What the mail server said: the mailbox, and its faults.
    pub(crate) said: Vec<Value>,
}

/// What was recorded of one action.
#[derive(Debug, Default)]
struct Life {
    token: String,
    deletion: bool,
    announced: usize,
    cancelled: Option<i64>,
    /// When, what it took, and who were admins then.
    carried_out: Vec<(i64, Vec<String>, Vec<String>)>,
}

/// A message in the mailbox.
struct Letter {
    /// Of its Message-ID.
    id: Uuid,
    to: String,
    text: String,
    at: i64,
}

fn micros(time: Option<Timestamp>) -> Option<i64> {
    time.map(|time| time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000)
}

fn texts(of: &Value) -> Vec<String> {
    let texts = of.as_array().into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

impl Evidence {
    /// Everything that must hold; a line of figures.
    pub(crate) fn judge(&self, workers: &[Worker]) -> String {
        let lives = self.lives();
        let letters = self.letters();
        self.nothing_answered_is_lost(workers, &lives);
        self.mails_are_what_was_sent(&lives, &letters);
        for (id, life) in &lives {
            assert_eq!(life.announced, 1, "{id}: {life:?}");
            assert!(life.carried_out.len() <= 1, "{id} was carried out twice: {life:?}");
            let ends = life.carried_out.len() + usize::from(life.cancelled.is_some());
            assert!(ends <= 1, "{id} was cancelled and carried out: {life:?}");
            self.was_noticed(id, life, &letters);
        }
        let mut deleted = BTreeSet::new();
        for life in lives.values().filter(|life| life.deletion && !life.carried_out.is_empty()) {
            assert!(deleted.insert(&life.token), "deleted twice: {life:?}");
        }
        let carried_out = lives.values().filter(|life| !life.carried_out.is_empty()).count();
        let (downgrades, deletions) = (carried_out - deleted.len(), deleted.len());
        let kept: usize = workers.iter().map(|worker| worker.kept.len()).sum();
        let cancelled = lives.values().filter(|life| life.cancelled.is_some()).count();
        assert!(downgrades > 0 && deletions > 10 && kept > 0, "too little happened: {lives:#?}");
        let different: BTreeSet<_> = letters.iter().map(|letter| letter.id).collect();
        let mut faults: BTreeMap<&str, usize> = BTreeMap::new();
        for fault in self.said.iter().filter_map(|said| said["fault"].as_str()) {
            *faults.entry(fault).or_default() += 1;
        }
        format!(
            "{} tokens; {} actions, {deletions} deletions and {downgrades} downgrades carried out, \
             {cancelled} cancelled, {kept} of them by a use that was answered; {} notices queued; {} mails in \
             the mailbox, and {} once more; faults of the mail server: {faults:?}",
            self.tokens.len(),
            lives.len(),
            self.mails.iter().filter(|mail| mail.kind == "notice").count(),
            different.len(),
            letters.len() - different.len(),
        )
    }

    fn lives(&self) -> BTreeMap<String, Life> {
        let mut lives: BTreeMap<String, Life> = BTreeMap::new();
        let mut admins: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (at, event) in self.events.iter().enumerate() {
            assert_eq!(event.revision, at as i64 + 1, "a position is missing or twice: {event:?}");
            let json = |text: &str| -> Value { serde_json::from_str(text).unwrap_or_default() };
            let (before, after) = (json(&event.before_json), json(&event.after_json));
            if event.action.as_str().starts_with("account.") {
                admins.insert(&event.account_id, texts(&after["admins"]));
            }
            let time = micros(event.time).unwrap();
            for id in texts(&before["cancelled"]) {
                let life = lives.get_mut(&id).expect("it was announced");
                assert!(life.cancelled.replace(time).is_none(), "cancelled twice: {event:?}");
            }
            let Some(id) = after["pending_action_id"].as_str() else { continue };
            let life = lives.entry(id.to_owned()).or_default();
            life.token.clone_from(&event.token_id);
            match event.action.as_str() {
                "lifecycle.announce" => {
                    life.announced += 1;
                    life.deletion = after["type"] == "deletion";
                }
                "lifecycle.delete" | "lifecycle.downgrade" => {
                    let admins = admins[event.account_id.as_str()].clone();
                    life.carried_out.push((time, texts(&after["taken"]), admins));
                }
                _ => {}
            }
        }
        lives
    }

    fn letters(&self) -> Vec<Letter> {
        let letters = self.said.iter().filter(|said| said["headers"].is_object());
        let letter = |said: &Value| {
            let id = said["headers"]["Message-ID"].as_str().unwrap();
            let id = id.trim_start_matches('<').split('@').next().unwrap();
            Letter {
                id: id.parse().unwrap(),
                to: said["to"][0].as_str().unwrap().to_owned(),
                text: said["text"].as_str().unwrap().to_owned(),
                at: (said["time"].as_f64().unwrap() * 1e6) as i64,
            }
        };
        letters.map(letter).collect()
    }

    /// Every token whose creation was answered is there; every use that was allowed against an action
    /// has cancelled it, and is on record.
    fn nothing_answered_is_lost(&self, workers: &[Worker], lives: &BTreeMap<String, Life>) {
        let tokens: BTreeMap<_, _> =
            self.tokens.iter().map(|token| (token.token_id.as_str(), token)).collect();
        for worker in workers {
            for id in &worker.created {
                assert!(tokens.contains_key(id.as_str()), "{id} was created and is not there");
            }
            for id in &worker.kept {
                let life = &lives[id];
                assert!(life.carried_out.is_empty(), "a use was allowed against {id}: {life:?}");
                let used = micros(tokens[life.token.as_str()].last_use_time);
                let cancelled = life.cancelled;
                assert!(cancelled.is_some() && used >= cancelled, "{id}: {used:?}, {life:?}");
            }
        }
    }

    /// Whatever is in the mailbox is one of the mails that the database knows, under that mail's
    /// Message-ID; and what the database calls accepted is in the mailbox.
    fn mails_are_what_was_sent(&self, lives: &BTreeMap<String, Life>, letters: &[Letter]) {
        let known: BTreeMap<_, _> = self.mails.iter().map(|mail| (mail.mail_id, mail)).collect();
        let mut first: BTreeMap<Uuid, i64> = BTreeMap::new();
        for letter in letters {
            let mail = known.get(&letter.id).expect("it is known under its Message-ID");
            assert_eq!(letter.to, mail.recipient, "{mail:?}");
            if let Some(action) = mail.pending_action_id {
                let life = &lives[&action_id(action)];
                assert!(letter.text.contains(&life.token), "{mail:?} is not about {life:?}");
            }
            first.entry(letter.id).or_insert(letter.at);
        }
        let mut of_action = BTreeSet::new();
        for mail in &self.mails {
            if let Some(action) = mail.pending_action_id {
                assert!(of_action.insert((action, &mail.kind, &mail.recipient)), "{mail:?} twice");
            }
            if let Some(accepted) = mail.accept_time {
                let sent = first.get(&mail.mail_id);
                assert!(sent.is_some_and(|sent| *sent <= accepted + SLACK), "{mail:?}: {sent:?}");
            }
        }
    }

    /// Whoever was an admin when it was carried out had been told of all that it took, a notice period
    /// before.
    fn was_noticed(&self, id: &str, life: &Life, letters: &[Letter]) {
        for (at, taken, admins) in &life.carried_out {
            assert!(admins.len() == 2, "{id}: {admins:?}");
            for admin in admins {
                let notice = |mail: &&MailRow| {
                    mail.kind == "notice"
                        && mail.recipient == *admin
                        && mail.pending_action_id.is_some_and(|action| action_id(action) == id)
                };
                let notice = self.mails.iter().find(notice).expect("a notice for each admin");
                let accepted = notice.accept_time.expect("an accepted notice for each admin");
                assert!(
                    accepted + NOTICE <= *at,
                    "{id} was carried out early: {notice:?} {life:?}"
                );
                let letter = letters.iter().find(|letter| letter.id == notice.mail_id).unwrap();
                assert!(letter.at + NOTICE <= at + SLACK, "{id} was mailed late: {life:?}");
                for scope in taken {
                    assert!(letter.text.contains(scope), "{scope} was not named: {}", letter.text);
                }
            }
        }
    }
}

fn action_id(id: Uuid) -> String {
    portcullis::policy::id::PendingActionId(id).to_string()
}
