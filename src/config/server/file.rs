//! The configuration file: TOML with the names of the flags. A flag wins over its variable, and a variable over the
//! file.
//!
//! Must stay true: every key is a setting, and no secret stands in the file, which more people may read than a file for
//! one secret. Rule 7.9 of docs/policy.md.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args as _};
use toml::Value;

use super::errors::InvalidSettings;
use super::store::has_password;
use super::{MigrateArgs, ServeArgs};
use crate::config::nearest;

/// The most that is read of the file, in bytes.
const MAX_SIZE: u64 = 1 << 20;
/// The key of the database's URL. Its variable is no variable of its flag, so that this is no default of the flag.
const DATABASE_URL: &str = "database-url";
/// Keys that name files with secrets, and the key of the secret itself, which is refused.
const SECRET_FILES: [(&str, &str); 3] = [
    ("operator-credential-file", "operator-credential"),
    ("smtp-url-file", "smtp-url"),
    ("database-url-file", DATABASE_URL),
];

/// Where the configuration file is.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArgs {
    /// TOML file with settings by the names of their flags, for what neither a flag nor a variable sets. It holds
    /// no secrets: it names files with them
    #[arg(
        long,
        env = "PORTCULLIS_CONFIG",
        hide_env_values = true,
        value_name = "FILE",
        help_heading = "Operation"
    )]
    config: Option<PathBuf>,
}

/// The content of a configuration file.
#[derive(Debug, Default)]
pub struct ConfigFile {
    /// The values of flags, by their names.
    flags: BTreeMap<String, Vec<String>>,
    /// Of [`DATABASE_URL`] and [`SECRET_FILES`].
    others: BTreeMap<String, String>,
}

impl ConfigFile {
    /// Reads the file that `--config` or its variable names in `matches`, those of `serve` or `migrate`. An empty one,
    /// where neither is set.
    ///
    /// # Errors
    /// Everything that is wrong with the file, at once.
    pub fn of(matches: &clap::ArgMatches) -> Result<Self, InvalidSettings> {
        match matches.get_one::<PathBuf>("config") {
            Some(path) => Self::read(path),
            None => Ok(Self::default()),
        }
    }

    fn read(path: &Path) -> Result<Self, InvalidSettings> {
        let invalid = |errors: Vec<String>| {
            let name = path.display();
            let named = errors.into_iter().map(|error| format!("--config: {name}: {error}"));
            InvalidSettings(named.collect())
        };
        let cannot_read = |error| invalid(vec![format!("cannot be read: {error}")]);
        if fs::metadata(path).map_err(cannot_read)?.len() > MAX_SIZE {
            return Err(invalid(vec!["is larger than 1 MiB".to_owned()]));
        }
        let text = fs::read_to_string(path).map_err(cannot_read)?;
        Self::parse(&text).map_err(invalid)
    }

    fn parse(text: &str) -> Result<Self, Vec<String>> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            // Not the line itself: a secret may stand there by mistake.
            let before = error.span().map_or(0, |span| span.start);
            let line = text.get(..before).map_or(1, |before| before.matches('\n').count() + 1);
            vec![format!("line {line} is not TOML: {}", error.message())]
        })?;
        // Those of `migrate` are among them.
        let serve = ServeArgs::augment_args(clap::Command::new("serve"));
        let (mut file, mut errors) = (Self::default(), Vec::new());
        for (key, value) in table {
            if let Err(error) = file.take(&serve, &key, value) {
                errors.push(error);
            }
        }
        if errors.is_empty() { Ok(file) } else { Err(errors) }
    }

    fn take(&mut self, serve: &clap::Command, key: &str, value: Value) -> Result<(), String> {
        if SECRET_FILES.iter().any(|(file, _)| *file == key) || key == DATABASE_URL {
            let Value::String(value) = value else { return Err(format!("{key}: is not a string")) };
            if key == DATABASE_URL && has_password(&value) {
                return Err(format!(
                    "{key}: has a password, which does not belong here: write the URL to a file of its own, and \
                     name that in database-url-file"
                ));
            }
            self.others.insert(key.to_owned(), value);
            return Ok(());
        }
        if let Some((file, _)) = SECRET_FILES.iter().find(|(_, secret)| *secret == key) {
            return Err(format!(
                "{key}: is a secret, which does not belong here: write it to a file of its own, and name that in {file}"
            ));
        }
        let flags = || serve.get_arguments().filter(|arg| arg.get_long() != Some("config"));
        let Some(arg) = flags().find(|arg| arg.get_long() == Some(key)) else {
            let names = flags().filter_map(clap::Arg::get_long);
            let others = SECRET_FILES.iter().map(|(file, _)| *file);
            let folded = key.to_ascii_lowercase().replace('_', "-");
            return Err(match nearest(names.chain(others), &folded, folded.len()) {
                Some(meant) => format!("{key} is not a setting; did you mean {meant}?"),
                None => format!(
                    "{key} is not a setting: names are those of the flags, without dashes before them"
                ),
            });
        };
        let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
        let is_list = matches!(arg.get_action(), ArgAction::Append);
        let values = match value {
            Value::Boolean(value) if is_switch => vec![value.to_string()],
            _ if is_switch => return Err(format!("{key}: is not true or false")),
            Value::String(value) => vec![value],
            Value::Integer(value) => vec![value.to_string()],
            Value::Float(value) => vec![value.to_string()],
            Value::Array(values) if is_list && !values.is_empty() => {
                let texts = values.into_iter().map(|value| match value {
                    Value::String(text) => Some(text),
                    _ => None,
                });
                let texts: Option<Vec<_>> = texts.collect();
                texts.ok_or_else(|| format!("{key}: is not a list of strings"))?
            }
            _ if is_list => {
                return Err(format!("{key}: is neither a string nor a list of strings"));
            }
            _ => return Err(format!("{key}: is neither a string nor a number")),
        };
        self.flags.insert(key.to_owned(), values);
        Ok(())
    }

    /// `command`, which is `serve` or `migrate`, with the settings of the file instead of its defaults: so flags and
    /// variables win over them. Settings that the command does not have are left out.
    pub fn as_defaults(&self, command: clap::Command) -> clap::Command {
        let ids: Vec<_> = command
            .get_arguments()
            .filter_map(|arg| {
                Some((arg.get_id().clone(), self.flags.get(arg.get_long()?)?.clone()))
            })
            .collect();
        ids.into_iter().fold(command, |command, (id, values)| {
            command.mut_arg(id, |arg| arg.default_values(values))
        })
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.others.get(key).map(PathBuf::from)
    }
}

impl ServeArgs {
    /// Takes the settings without a flag from `file`.
    pub fn take_file(&mut self, file: &ConfigFile) {
        self.operator_credential_file = file.path("operator-credential-file");
        self.mail.smtp_url_file = file.path("smtp-url-file");
        take_store(&mut self.store, file);
    }
}

impl MigrateArgs {
    /// Takes the settings without a flag from `file`.
    pub fn take_file(&mut self, file: &ConfigFile) {
        take_store(&mut self.store, file);
    }
}

fn take_store(store: &mut super::StoreArgs, file: &ConfigFile) {
    store.configured_url = file.others.get(DATABASE_URL).cloned();
    store.configured_url_file = file.path("database-url-file");
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::super::SECRETS;
    use super::*;

    fn parsed(text: &str, args: &[&str]) -> ServeArgs {
        let file = ConfigFile::parse(text).unwrap();
        let command = ServeArgs::augment_args(clap::Command::new("serve"));
        let command = file.as_defaults(command);
        let matches = command.try_get_matches_from([&["serve"], args].concat()).unwrap();
        let mut serve = ServeArgs::from_arg_matches(&matches).unwrap();
        serve.take_file(&file);
        serve
    }

    #[test]
    fn every_secret_of_the_settings_has_a_key_for_its_file() {
        let key = |variable: &str| {
            let name = variable.strip_prefix("PORTCULLIS_").unwrap();
            name.to_ascii_lowercase().replace('_', "-")
        };
        for secret in &SECRETS {
            let keys = (key(secret.file), key(secret.name));
            let known =
                SECRET_FILES.iter().any(|(file, name)| keys == ((*file).into(), (*name).into()));
            assert!(known, "{keys:?}");
        }
    }

    #[test]
    fn settings_of_the_file_replace_defaults_and_flags_win_over_them() {
        let text = r#"
            listen = ["127.0.0.1:1", "unix:/run/portcullis.sock"]
            http-listen = "127.0.0.1:2"
            plaintext = true
            cache-capacity = 7
            decision-log-allows = 0.05
            lease = "3s"
            operator-credential-file = "/etc/portcullis/operator"
            database-url-file = "/etc/portcullis/database"
        "#;
        let args = parsed(text, &[]);
        assert_eq!(args.listen, ["127.0.0.1:1", "unix:/run/portcullis.sock"]);
        assert_eq!((args.http_listen.as_str(), args.plaintext), ("127.0.0.1:2", true));
        assert_eq!((args.cache_capacity.as_str(), args.lease.as_deref()), ("7", Some("3s")));
        assert_eq!(args.operator_credential_file, Some("/etc/portcullis/operator".into()));
        assert_eq!(args.store.configured_url_file, Some("/etc/portcullis/database".into()));
        // What the file leaves out keeps its default.
        assert_eq!(args.token_prefix, "pcl");
        let args = parsed(text, &["--listen", "127.0.0.1:3", "--lease", "4s"]);
        assert_eq!(args.listen, ["127.0.0.1:3"]);
        assert_eq!(args.lease.as_deref(), Some("4s"));
    }

    #[test]
    fn every_error_names_its_key_and_the_cure_and_no_value() {
        let errors = ConfigFile::parse(
            r#"
            listne = "x"
            Cache_Capacity = 1
            colour = "hunter2"
            operator-credential = "hunter2"
            smtp-url = "smtp://user:hunter2@mail.example"
            database-url = "postgres://user:hunter2@db.example/x"
            config = "other.toml"
            plaintext = "yes"
            lease = true
            listen = [1]
            [mail]
            from = "x"
            "#,
        )
        .unwrap_err();
        for part in [
            "listne is not a setting; did you mean listen?",
            "Cache_Capacity is not a setting; did you mean cache-capacity?",
            "colour is not a setting: names are those of the flags",
            "operator-credential: is a secret, which does not belong here: write it to a file of its own, and name \
             that in operator-credential-file",
            "smtp-url: is a secret",
            "database-url: has a password, which does not belong here",
            "config is not a setting",
            "plaintext: is not true or false",
            "lease: is neither a string nor a number",
            "listen: is not a list of strings",
            "mail is not a setting",
        ] {
            assert!(errors.iter().any(|error| error.starts_with(part)), "no `{part}`: {errors:?}");
        }
        assert_eq!(errors.len(), 11, "{errors:?}");
        assert!(!errors.concat().contains("hunter2"), "{errors:?}");
        let errors = ConfigFile::parse("lease = \"3s\"\nsmtp-url = hunter2\n").unwrap_err();
        assert!(errors[0].starts_with("line 2 is not TOML"), "{errors:?}");
        assert!(!errors[0].contains("hunter2"), "{errors:?}");
    }
}
