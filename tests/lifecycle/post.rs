//! A mail server without a socket: a script says beforehand what becomes of mail to each address, and it
//! notes each attempt.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use portcullis::lifecycle::Transport;
use portcullis::mail::{Message, Outcome};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::lifecycle::model::Fate;

/// A message that was handed over, and what became of it.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) id: Uuid,
    pub(crate) subject: String,
    pub(crate) to: String,
    pub(crate) text: String,
    pub(crate) fate: Fate,
}

impl Attempt {
    /// Whether it is about an expiry. Those are no part of the model: see `expiry`.
    pub(crate) fn is_about_expiry(&self) -> bool {
        self.subject.contains(" expire")
    }
}

#[derive(Debug, Default)]
pub(crate) struct Script {
    /// What becomes of mail to an address; to any other it is accepted.
    pub(crate) fates: HashMap<String, Fate>,
    /// Whether all of it fails.
    pub(crate) down: bool,
    /// After so many more that are accepted, the next one is too, and that is not recorded.
    pub(crate) lose_after: Option<usize>,
    pub(crate) attempts: Vec<Attempt>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Post {
    script: Mutex<Script>,
    pub(crate) lost: Notify,
}

impl Post {
    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    fn take(&self, message: &Message) -> Fate {
        let mut script = self.script();
        let mut fate = script.fates.get(&message.to).copied().unwrap_or(Fate::Accepted);
        if script.down {
            fate = Fate::Fault;
        }
        if fate == Fate::Accepted
            && let Some(left) = script.lose_after
        {
            script.lose_after = left.checked_sub(1);
            if left == 0 {
                fate = Fate::Lost;
            }
        }
        script.attempts.push(Attempt {
            id: message.id,
            subject: message.subject.clone(),
            to: message.to.clone(),
            text: message.text.clone(),
            fate,
        });
        fate
    }
}

#[async_trait]
impl Transport for Post {
    async fn send(&self, message: &Message) -> Outcome {
        match self.take(message) {
            Fate::Refused => Outcome::RecipientRefused("550 no such user".to_owned()),
            Fate::Rejected => {
                Outcome::MessageRefused("554 not this one (to the message)".to_owned())
            }
            Fate::Postponed => Outcome::Postponed("450 busy".to_owned()),
            Fate::Fault => Outcome::RelayError("450 later".to_owned()),
            Fate::Lost => {
                self.lost.notify_one();
                std::future::pending().await
            }
            Fate::Accepted | Fate::Held => Outcome::Accepted("250 taken".to_owned()),
        }
    }
}
