//! How every command speaks: text or JSON to standard output, failures in three parts to standard error, and the exit
//! codes. A reader that has gone away is no failure and never a panic.

use std::io;
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

impl OutputArguments {
    /// Whether the answer is for people, who may see it grow.
    pub(in crate::cli) fn is_text(self) -> bool {
        matches!(self.output, OutputFormat::Text)
    }
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
    /// The first error of writing an answer.
    unwritten: Option<io::Error>,
}

impl Screen {
    /// The process's own output; in colour on a terminal that can, unless `NO_COLOR` or `CLICOLOR` is against it.
    #[must_use]
    pub fn of_process() -> Self {
        Self { out: Box::new(anstream::stdout()), err: Box::new(anstream::stderr()), unwritten: None }
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
        if let Err(error) = write(&mut self.out, text) {
            self.unwritten.get_or_insert(error);
        }
    }

    /// Prints one JSON document and a newline.
    fn json(&mut self, answer: &impl Serialize) {
        // A report has string keys and finite numbers only, so it always has a JSON form.
        let text = serde_json::to_string_pretty(answer).unwrap_or_else(|_| "null".to_owned());
        self.text(&format!("{text}\n"));
    }

    /// `word` in the colour of `exit`. Where the screen has no colour, it is written without.
    #[must_use]
    pub fn coloured(word: &str, exit: Exit) -> String {
        let style = anstyle::Style::new().bold().fg_color(Some(match exit {
            Exit::Fine => anstyle::AnsiColor::Green.into(),
            Exit::Stale => anstyle::AnsiColor::Yellow.into(),
            _ => anstyle::AnsiColor::Red.into(),
        }));
        format!("{style}{word}{style:#}")
    }

    /// Ends a command: prints its failure, if it is one, and gives its exit code. An answer that was not written is a
    /// failure: a script that stores it would go on with half a token.
    pub fn finish(&mut self, answer: Result<Exit, Failure>) -> ExitCode {
        let written = self.unwritten.take().map_or(Ok(()), |error| {
            let next = "make room where standard output goes, and run it again";
            Err(Failure::new(Exit::No, "the answer could not be written", error.to_string(), next))
        });
        let exit = answer.and_then(|exit| written.map(|()| exit)).unwrap_or_else(|failure| {
            let text = format!("bonafide: {}\n  why:  {}\n  next: {}\n", failure.what, failure.why, failure.next);
            let _nowhere_to_say_so = write(&mut self.err, &text);
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
    let written = except_closed_pipe(not_a_command.print());
    match (asked_for, written) {
        (true, Ok(())) => Exit::Fine.into(),
        (true, Err(_)) => Exit::No.into(),
        (false, _) => Exit::Usage.into(),
    }
}

/// Writes and flushes.
fn write(out: &mut dyn Write, text: &str) -> io::Result<()> {
    except_closed_pipe(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// A closed pipe (`bonafide status | head -1`) means that the reader has seen enough.
fn except_closed_pipe(written: io::Result<()>) -> io::Result<()> {
    written.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}
