//! Flags that stand before the command's name.
//!
//! clap takes a flag of all commands behind the name of one. Declared for the program itself, those flags
//! would be flags of `serve` as well, where `--plaintext` and `--data-dir` mean something else.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};

use clap::{Arg, Command};

/// `args` with the flags of every client command moved behind the command's name. All else stays where it is,
/// for clap to judge.
pub(super) fn behind_the_command(program: &Command, args: Vec<OsString>) -> Vec<OsString> {
    let mut rest = VecDeque::from(args);
    let mut sorted: Vec<OsString> = rest.pop_front().into_iter().collect();
    let mut moved = Vec::new();
    while let Some(flag) = rest.front().and_then(|arg| common_flag(program, arg)) {
        let has_value = flag.takes_value && !flag.has_value;
        moved.extend(rest.drain(..rest.len().min(1 + usize::from(has_value))));
    }
    if rest.is_empty() {
        // Of flags alone clap would say that the program has none such, and not what is missing.
        return sorted;
    }
    if rest.front().is_some_and(|arg| !arg.as_encoded_bytes().starts_with(b"-")) {
        sorted.extend(rest.pop_front());
    }
    sorted.extend(moved);
    sorted.extend(rest);
    sorted
}

/// A flag as it is written.
struct FlagText {
    takes_value: bool,
    /// In the same word: `--server=URL`, `-ojson`.
    has_value: bool,
}

/// The flag of every client command that `arg` is, if it is one.
fn common_flag(program: &Command, arg: &OsStr) -> Option<FlagText> {
    let arg = arg.as_encoded_bytes();
    // Any command that talks to a server: all of them have the same.
    let common =
        program.find_subcommand("token")?.get_arguments().filter(|arg| arg.is_global_set());
    let written = |flag: &Arg, has_value| FlagText {
        takes_value: flag.get_action().takes_values(),
        has_value,
    };
    if let Some(long) = arg.strip_prefix(b"--") {
        let (name, has_value) = match long.iter().position(|&byte| byte == b'=') {
            Some(at) => (&long[..at], true),
            None => (long, false),
        };
        let mut named = common.filter(|flag| flag.get_long().map(str::as_bytes) == Some(name));
        return named.next().map(|flag| written(flag, has_value));
    }
    let short = char::from(*arg.strip_prefix(b"-")?.first()?);
    let mut named = common.filter(|flag| flag.get_short() == Some(short));
    named.next().map(|flag| written(flag, arg.len() > 2))
}
