//! Warns of single selectors that match nothing, or more than was meant.

use crate::agent::config::problem::shown;
use crate::agent::config::reader::Reader;
use crate::agent::config::reader::Text;
use crate::evidence::Selector;

/// Warns of what one entry's selectors say, in the order in which they are written.
pub(in crate::agent::config) fn warn_of(table: &mut Reader<'_, '_>, selectors: &[Selector], texts: &[Text<'_>]) {
    let has_unit = selectors.iter().any(|selector| matches!(selector, Selector::SystemdId(_)));
    for (selector, text) in selectors.iter().zip(texts) {
        let advice = match selector {
            Selector::SystemdId(unit) => of_escapes(text).or_else(|| of_unit(unit)),
            Selector::SystemdSlice(_) | Selector::Cgroup(_) => of_escapes(text),
            // SECURITY: an interpreter runs any script, so its path does not tell which program runs. A unit does.
            Selector::UnixPath(path) if !has_unit && is_interpreter(path) => Some(INTERPRETER.to_owned()),
            _ => None,
        };
        if let Some(advice) = advice {
            table.warn(text.span.start, format!("selector {} {advice}", shown(text.value)));
        }
    }
}

const INTERPRETER: &str = "is an interpreter: every script that it is started with matches; add the unit that runs yours, \
                           for example \"systemd:id:NAME.service\", or build it as a program of its own";

/// SPEC: systemd.unit(5): the name of a unit ends in its type. The processes of a machine are in units of these types.
fn of_unit(unit: &str) -> Option<String> {
    const WITH_PROCESSES: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];
    const WITHOUT: [&str; 6] = [".slice", ".target", ".timer", ".path", ".device", ".automount"];
    let ends_in = |suffixes: &[&str]| suffixes.iter().any(|suffix| unit.ends_with(suffix));
    if ends_in(&WITH_PROCESSES) {
        None
    } else if ends_in(&WITHOUT) {
        Some("matches nothing: no process is in a unit of this type; write the service that it starts".to_owned())
    } else {
        Some(format!("matches nothing: a unit's name ends in its type; did you mean \"systemd:id:{unit}.service\"?"))
    }
}

/// systemd writes some characters of a name as `\x2d`. In double quotes TOML reads that as `-`: another unit's name.
fn of_escapes(text: &Text<'_>) -> Option<String> {
    let one_line = !text.written.contains(char::is_control);
    let inner = text.written.strip_prefix('"')?.strip_suffix('"').filter(|_| one_line)?;
    let mut characters = inner.chars();
    let mut found = false;
    while let Some(character) = characters.next() {
        found |= character == '\\' && characters.next().is_some_and(|escape| matches!(escape, 'x' | 'u' | 'U'));
    }
    let in_single_quotes = format!("'{}'", inner.trim_matches('"'));
    found.then(|| {
        format!(
            "is what double quotes make of {}; where the name itself has a \"\\\", write single quotes: {in_single_quotes}",
            text.written
        )
    })
}

/// Whether a program runs what its arguments name: an interpreter, a shell, a loader, a multi-call binary. Compares the
/// name without its version.
fn is_interpreter(path: &str) -> bool {
    const INTERPRETERS: [&str; 37] = [
        "R", "Rscript", "ash", "awk", "bash", "beam.smp", "bun", "busybox", "csh", "dash", "deno", "dotnet", "env",
        "fish", "gawk", "guile", "java", "julia", "ksh", "lua", "luajit", "mawk", "mono", "node", "nodejs", "perl",
        "php", "pwsh", "pypy", "python", "ruby", "sh", "tclsh", "tcsh", "toybox", "wish", "zsh",
    ];
    let name = path.rsplit('/').next().unwrap_or_default();
    let unversioned = name.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
    let loader = name.starts_with("ld-") && name.contains(".so");
    loader || INTERPRETERS.contains(&name) || INTERPRETERS.contains(&unversioned)
}
