//! How every command speaks: text or JSON to standard output, failures in three parts to standard error, and the exit
//! codes. A reader that has gone away is no failure and never a panic.

use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;

/// Exit codes, an interface of their own (SPEC: product contract §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Fine = 0,
    /// No, or unhealthy.
    No = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// The daemon cannot be reached.
    Unreachable = 3,
    /// The daemon refused.
    Denied = 4,
    /// Serving, but from what it had before.
    Stale = 5,
}

/// What `-o` can name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people: 80 columns, times from now.
    #[default]
    Text,
    /// For programs: stable keys, absolute times in seconds since 1970.
    Json,
}

/// The `-o` of every command that reads.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct OutputArguments {
    /// How to print the answer: text, or json for programs, with stable keys
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
    output: OutputFormat,
}

/// A command that has no answer: what happened, why, and what to type next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// What happened.
    pub what: String,
    /// Why, as far as it is known.
    pub why: String,
    /// What to type next.
    pub next: String,
}

impl Failure {
    /// A failure that ends the process with `exit`.
    #[must_use]
    pub fn new(exit: Exit, what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, what: what.into(), why: why.into(), next: next.into() }
    }
}

/// Standard output and standard error of a command.
pub struct Screen {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    colour: bool,
}

impl Screen {
    /// The process's own output; in colour only where a person looks at it.
    #[must_use]
    pub fn of_process() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|said| !said.is_empty());
        let colour = io::stdout().is_terminal() && !unwanted && std::env::var_os("TERM").is_none_or(|it| it != "dumb");
        Self { out: Box::new(io::stdout()), err: Box::new(io::stderr()), colour }
    }

    /// A screen that writes elsewhere, without colour.
    #[must_use]
    pub fn to(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self { out, err, colour: false }
    }

    /// Prints an answer as it was asked for: as JSON, or as `text` says it.
    pub fn answer<A: Serialize>(&mut self, form: OutputArguments, answer: &A, text: impl FnOnce(&A) -> String) {
        match form.output {
            OutputFormat::Json => self.json(answer),
            OutputFormat::Text => self.text(&text(answer)),
        }
    }

    /// Prints text for people.
    pub fn text(&mut self, text: &str) {
        write_or_leave(&mut self.out, text);
    }

    /// Prints one JSON document and a newline.
    fn json(&mut self, answer: &impl Serialize) {
        // A report has string keys and finite numbers only, so it always has a JSON form.
        let text = serde_json::to_string_pretty(answer).unwrap_or_else(|_| "null".to_owned());
        write_or_leave(&mut self.out, &format!("{text}\n"));
    }

    /// `word` in a colour that says how good it is, on a terminal; else `word`.
    #[must_use]
    pub fn coloured(&self, word: &str, exit: Exit) -> String {
        let style = anstyle::Style::new().bold().fg_color(Some(match exit {
            Exit::Fine => anstyle::AnsiColor::Green.into(),
            Exit::Stale => anstyle::AnsiColor::Yellow.into(),
            _ => anstyle::AnsiColor::Red.into(),
        }));
        if self.colour { format!("{style}{word}{style:#}") } else { word.to_owned() }
    }

    /// Ends a command: prints its failure, if it is one, and gives its exit code.
    pub fn finish(&mut self, answer: Result<Exit, Failure>) -> ExitCode {
        let exit = answer.unwrap_or_else(|failure| {
            write_or_leave(
                &mut self.err,
                &format!("bonafide: {}\n  why:  {}\n  next: {}\n", failure.what, failure.why, failure.next),
            );
            failure.exit
        });
        exit.into()
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Prints what clap has to say; `--help` and `--version` are answers, everything else is wrong usage.
pub(in crate::cli) fn explain_usage(not_a_command: &clap::Error) -> ExitCode {
    let asked_for = !not_a_command.use_stderr();
    let _reader_has_gone = not_a_command.print();
    if asked_for { Exit::Fine.into() } else { Exit::Usage.into() }
}

/// Writes and flushes. A closed pipe (`bonafide status | head -1`) means that the reader has seen enough.
fn write_or_leave(out: &mut dyn Write, text: &str) {
    let _reader_has_gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
