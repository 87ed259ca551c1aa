//! Mails that are kept in memory instead of being sent: what `serve --dev` does with them where no mail server
//! is configured, so that a whole lifecycle can be watched.
//!
//! Must stay true: it is bounded; nothing leaves it but to the management page.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::message::Message;

/// Mails that are kept; the oldest goes first.
const MOST: usize = 100;
/// Bytes that they hold together.
const BYTES: usize = 8 << 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Mailbox(Mutex<VecDeque<Arc<Message>>>);

impl Mailbox {
    /// Takes a mail over. One that comes again, with the same id, is kept once.
    pub fn keep(&self, message: Message) {
        let mut kept = self.lock();
        kept.retain(|known| known.id != message.id);
        kept.push_front(Arc::new(message));
        while kept.len() > 1
            && (kept.len() > MOST || kept.iter().map(|mail| size(mail)).sum::<usize>() > BYTES)
        {
            kept.pop_back();
        }
    }

    /// All that are kept, the newest first.
    pub fn newest_first(&self) -> Vec<Arc<Message>> {
        self.lock().iter().cloned().collect()
    }

    /// One of them.
    pub fn get(&self, id: Uuid) -> Option<Arc<Message>> {
        self.lock().iter().find(|mail| mail.id == id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Message>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(mail: &Message) -> usize {
    mail.to.len() + mail.subject.len() + mail.text.len() + mail.html.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::time::Timestamp;

    fn mail(id: u128, length: usize) -> Message {
        Message {
            id: Uuid::from_u128(id),
            to: "ann@acme.example".to_owned(),
            date: Timestamp(0),
            subject: id.to_string(),
            text: "x".repeat(length),
            html: String::new(),
        }
    }

    #[test]
    fn the_newest_are_kept() {
        let mailbox = Mailbox::default();
        for id in 0..150 {
            mailbox.keep(mail(id, 10));
        }
        let kept = mailbox.newest_first();
        assert_eq!((kept.len(), kept[0].subject.as_str()), (MOST, "149"));
        assert!(mailbox.get(Uuid::from_u128(49)).is_none());
        mailbox.keep(mail(50, 20));
        assert_eq!(mailbox.newest_first().len(), MOST);
        assert_eq!(mailbox.get(Uuid::from_u128(50)).unwrap().text.len(), 20);
        for id in 200..210 {
            mailbox.keep(mail(id, BYTES / 4));
        }
        assert_eq!(mailbox.newest_first().len(), 3);
        mailbox.keep(mail(300, 2 * BYTES));
        assert_eq!(mailbox.newest_first().len(), 1);
    }
}
