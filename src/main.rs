//! Parses the command line and hands over.

use std::io::Write as _;
use std::process::ExitCode;

use portcullis::cli::{self, Cli, ClientCommand, Command};
use portcullis::{app, cli::NO_ANSWER, shutdown};

/// Decisions allocate small and free soon, on every thread at once.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let done = match Cli::from_command_line(std::env::args_os()).command {
        Command::Serve(args) => app::serve(args).map(|()| ExitCode::SUCCESS),
        Command::Migrate(args) => app::migrate(args).map(|()| ExitCode::SUCCESS),
        Command::Completions(args) => cli::completions(&args).map(|()| ExitCode::SUCCESS),
        Command::Man(args) => cli::manual_pages(&args).map(|()| ExitCode::SUCCESS),
        Command::Client(ClientCommand::Doctor(args)) if !args.is_of_gateway() => {
            let (args, format) = args.own();
            app::doctor(args, format)
        }
        Command::Client(command) => client(command),
    };
    done.unwrap_or_else(|error| {
        // Where standard error is gone, the exit code still reports it.
        let _ = writeln!(std::io::stderr(), "error: {}", app::explain(&error));
        ExitCode::from(NO_ANSWER)
    })
}

/// One thread is enough for one question at a time.
fn client(command: cli::ClientCommand) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        shutdown::outlive_file_size_limit()?;
        Ok(cli::run(command, async |args| {
            app::create_first_credential(args).await.map_err(|error| app::explain(&error))
        })
        .await)
    })
}
