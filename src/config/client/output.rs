//! How the command writes its answers.

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people: tables and sentences
    #[default]
    Text,
    /// For programs: the answer as one JSON object, errors as another on standard error
    Json,
}

/// How to write the answer, as written on the command line.
#[derive(Debug, Clone, clap::Args)]
pub struct OutputArgs {
    /// Format of the output
    #[arg(
        id = "output",
        long = "output",
        short = 'o',
        global = true,
        env = "PORTCULLIS_OUTPUT",
        hide_env_values = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "text",
        help_heading = "Output"
    )]
    pub format: Format,
}
