//! `portcullis audit lost`: what a restored store lacks, by an export from before the restore. Needs no server.
//!
//! Must stay true: of what is in both files, one line is in memory at a time; what an export says reaches a shell only in
//! quotes.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::verify::{unreadable, verified};
use crate::audit::EventLine;
use crate::cli::failure::Failure;
use crate::cli::output::{clean, note, print, print_line, table};
use crate::config::client::Format;

/// What `audit lost` takes.
#[derive(Debug, Args)]
pub(super) struct LostArgs {
    /// What `audit export` or `audit follow` wrote before the restore
    #[arg(value_name = "FORMER")]
    former: PathBuf,
    /// What `audit export` wrote after the restore
    #[arg(value_name = "RESTORED")]
    restored: PathBuf,
    /// Print the commands that repeat what narrowed, as a shell script to be read before it is run
    #[arg(long)]
    commands: bool,
}

pub(super) fn run(args: &LostArgs, format: Format) -> Result<(), Failure> {
    let former = verified(&args.former, &BTreeSet::new(), false)?;
    let restored = verified(&args.restored, &BTreeSet::new(), false)?;
    if former.installation_id != restored.installation_id {
        let text = format!("{} is an export of another installation", args.former.display());
        return Err(Failure::Refused(text));
    }
    if former.begin.revision > restored.last.revision {
        return Err(Failure::Usage(format!(
            "{} begins after revision {}, and {} ends at {}: name an export that begins earlier",
            args.former.display(),
            former.begin.revision,
            args.restored.display(),
            restored.last.revision,
        )));
    }
    let mut printer = Printer::new(args.commands, format);
    let mut kept = events(&args.restored)?;
    let mut here = kept.next().transpose()?;
    let mut is_lost = false;
    for event in events(&args.former)? {
        let event = event?;
        while !is_lost && here.as_ref().is_some_and(|here| here.revision < event.revision) {
            here = kept.next().transpose()?;
        }
        // From the first event that differs on, no hash can be equal: each covers the one before.
        is_lost = is_lost
            || event.revision > restored.begin.revision
                && here.as_ref().is_none_or(|here| here.hash != event.hash);
        if is_lost {
            printer.add(&event)?;
        }
    }
    printer.finish()
}

/// The events of an export that was verified.
fn events(path: &Path) -> Result<impl Iterator<Item = Result<EventLine, Failure>>, Failure> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let path = path.to_owned();
    let lines = BufReader::new(file).lines();
    // The first and the last line are no events.
    Ok(lines.filter_map(move |line| match line {
        Ok(line) => serde_json::from_str(&line).ok().map(Ok),
        Err(error) => Some(Err(unreadable(&path, &error))),
    }))
}

/// Prints lost events in the form that was asked for.
struct Printer {
    commands: bool,
    format: Format,
    created: HashSet<String>,
    rows: Vec<[String; 5]>,
    count: u64,
}

impl Printer {
    fn new(commands: bool, format: Format) -> Self {
        Self { commands, format, created: HashSet::new(), rows: Vec::new(), count: 0 }
    }

    fn add(&mut self, event: &EventLine) -> Result<(), Failure> {
        self.count += 1;
        let cure = self.cure(event);
        match (self.commands, self.format) {
            (true, _) => match cure {
                Cure::Run(command) => print_line(&command),
                Cure::ByHand(what) => {
                    let [time, action] = [&event.time, &event.action].map(|text| clean(text));
                    let subject = subject(event);
                    print_line(&format!("# {time} {action} {}: {what}", clean(&subject)))
                }
                Cure::Nothing => Ok(()),
            },
            (false, Format::Json) => {
                let command = match cure {
                    Cure::Run(command) => Some(command),
                    Cure::ByHand(_) | Cure::Nothing => None,
                };
                print_line(&json!({ "event": event, "command": command }).to_string())
            }
            (false, Format::Text) => {
                let cure = match cure {
                    Cure::Run(text) => text,
                    Cure::ByHand(text) => text.to_owned(),
                    Cure::Nothing => String::new(),
                };
                self.rows.push([
                    event.time.clone(),
                    event.action.clone(),
                    event.account_id.clone(),
                    event.token_id.clone(),
                    cure,
                ]);
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<(), Failure> {
        if self.count == 0 {
            note("nothing was lost");
        } else if !self.rows.is_empty() {
            print(&table(["TIME", "ACTION", "ACCOUNT", "TOKEN", "TO BE DONE"], &self.rows))?;
        }
        Ok(())
    }

    /// What brings the store to where it was, as far as a command can.
    fn cure(&mut self, event: &EventLine) -> Cure {
        let after: Value = serde_json::from_str(&event.after_json).unwrap_or_default();
        let text = |name: &str| after[name].as_str().unwrap_or_default();
        let list = |name: &str| -> Vec<String> {
            let items = after[name].as_array().into_iter().flatten();
            items.filter_map(Value::as_str).map(|item| quoted(item).into_owned()).collect()
        };
        let (token, account) = (quoted(&event.token_id), quoted(&event.account_id));
        let (credential, expires) = (quoted(text("credential_id")), quoted(text("expire_time")));
        let subject = subject(event);
        if self.created.contains(&subject) {
            // The restored store does not have it.
            return Cure::Nothing;
        }
        Cure::Run(match event.action.as_str() {
            "token.delete" | "token.revoke_leaked" | "lifecycle.delete" => {
                format!("portcullis token delete {token} --yes")
            }
            "token.set_expiry" | "token.replace" if !text("expire_time").is_empty() => {
                format!("portcullis token expire {token} {expires} --yes")
            }
            "whitelist.change" => match list("whitelist").join(" ") {
                none if none.is_empty() => {
                    format!("portcullis whitelist replace {token} --allow-any-address")
                }
                entries => format!("portcullis whitelist replace {token} {entries}"),
            },
            "credential.revoke" | "credential.revoke_leaked" => {
                format!("portcullis credential revoke {credential} --yes")
            }
            "credential.update" if !text("expire_time").is_empty() => {
                format!("portcullis credential update {credential} --expires {expires} --yes")
            }
            "account.suspend" => format!("portcullis account suspend {account}"),
            "account.resume" => format!("portcullis account resume {account}"),
            "account.close" => {
                let name = quoted(text("name"));
                format!("portcullis account close {account} --confirm-name={name}")
            }
            "account.set_admins" => {
                let admins = list("admins").join(" --admin=");
                format!("portcullis account set-admins {account} --admin={admins}")
            }
            "secret_key.rotate" => "portcullis credential rotate-key".to_owned(),
            "catalog.apply" => {
                return Cure::ByHand("apply the catalogue again: portcullis catalog apply FILE");
            }
            "lifecycle.downgrade" => {
                return Cure::ByHand(
                    "an unused token has its scopes again, until its downgrade is announced again",
                );
            }
            "token.create" | "credential.create" | "account.create" => {
                self.created.insert(subject);
                return Cure::ByHand("is unknown now: create it again, and hand out its secret");
            }
            "token.import" => {
                let ids = after["token_ids"].as_array().into_iter().flatten();
                self.created.extend(ids.filter_map(Value::as_str).map(str::to_owned));
                return Cure::ByHand("are unknown now: import them again");
            }
            _ => return Cure::Nothing,
        })
    }
}

/// The id of what an event is about: a token, a credential or an account; empty for others.
fn subject(event: &EventLine) -> String {
    match event.action.split('.').next() {
        Some("credential") => {
            let after: Value = serde_json::from_str(&event.after_json).unwrap_or_default();
            after["credential_id"].as_str().unwrap_or_default().to_owned()
        }
        Some("account") => event.account_id.clone(),
        _ => event.token_id.clone(),
    }
}

/// What is to be done about a lost event.
enum Cure {
    Run(String),
    ByHand(&'static str),
    Nothing,
}

/// As one word of a POSIX shell.
fn quoted(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:/@+-".contains(&byte);
    if !text.is_empty() && !text.starts_with('-') && text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    // Hidden characters can't be typed, and none is valid in a name or an address.
    Cow::Owned(format!("'{}'", clean(text).replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::ChainPoint;

    fn event(action: &str, account_id: &str, token_id: &str, after: &Value) -> EventLine {
        EventLine {
            revision: 1,
            time: "2026-01-31T12:00:00.000000Z".to_owned(),
            action: action.to_owned(),
            actor: String::new(),
            actor_role: String::new(),
            client_address: String::new(),
            account_id: account_id.to_owned(),
            token_id: token_id.to_owned(),
            before_json: String::new(),
            after_json: after.to_string(),
            hash: ChainPoint::genesis("a").hash,
        }
    }

    #[test]
    fn lost_events_that_narrowed_have_their_commands() {
        let mut printer = Printer::new(true, Format::Text);
        let mut command = |action: &str, after: Value| match printer
            .cure(&event(action, "acc_1", "tok_1", &after))
        {
            Cure::Run(command) => command,
            Cure::ByHand(_) => "by hand".to_owned(),
            Cure::Nothing => String::new(),
        };
        let time = "2027-01-01T00:00:00Z";
        for (action, after, wanted) in [
            ("token.delete", json!({}), "token delete tok_1 --yes"),
            ("token.revoke_leaked", json!({}), "token delete tok_1 --yes"),
            ("lifecycle.delete", json!({}), "token delete tok_1 --yes"),
            (
                "token.replace",
                json!({ "expire_time": time }),
                "token expire tok_1 2027-01-01T00:00:00Z --yes",
            ),
            (
                "whitelist.change",
                json!({ "whitelist": ["192.0.2.1", "2001:db8::/48"] }),
                "whitelist replace tok_1 192.0.2.1 2001:db8::/48",
            ),
            (
                "whitelist.change",
                json!({ "whitelist": null }),
                "whitelist replace tok_1 --allow-any-address",
            ),
            (
                "credential.revoke",
                json!({ "credential_id": "crd_1" }),
                "credential revoke crd_1 --yes",
            ),
            (
                "account.close",
                json!({ "name": "A's $(reboot)\n" }),
                r"account close acc_1 --confirm-name='A'\''s $(reboot)<U+000A>'",
            ),
            (
                "account.set_admins",
                json!({ "admins": ["ann@a.example", "--x"] }),
                "account set-admins acc_1 --admin=ann@a.example --admin='--x'",
            ),
        ] {
            assert_eq!(command(action, after), format!("portcullis {wanted}"), "{action}");
        }
        assert_eq!(command("token.update", json!({ "name": "n" })), "");
        assert_eq!(command("token.create", json!({})), "by hand");
        assert_eq!(command("token.delete", json!({})), "", "the restored store never had it");
    }
}
