//! Parser for `/proc/PID/stat`.

use crate::attestation::host::MAX_FILE;
use crate::attestation::host::NotKernelText;
use crate::attestation::host::number;

/// The fields of `stat` that attestation uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Process id.
    pub pid: u32,
    /// State of the first thread: `R`, `S`, `D`, `Z` and so on.
    pub state: u8,
    /// Start time in clock ticks since boot. SECURITY: it does not identify a process. A process can be allocated early
    /// and get its PID late, so two processes with one PID, one after the other, can show the same tick.
    pub started: u64,
    /// The addresses of the program.
    pub layout: MemoryLayout,
}

/// Addresses that the kernel chooses at every `exec`. A reader without ptrace access sees 0 or 1; a process without memory, at
/// its start or exit, has 0.
///
/// SECURITY: they are random unless the process has switched that off (`setarch -R`, personality(2)). Then an `exec` of the
/// same file with strings of the same length gets the same addresses, and nothing tells both images apart. The evidence is
/// the same, so it gives no other identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemoryLayout {
    /// The start of the program's code.
    pub code: u64,
    /// The start of the stack.
    pub stack: u64,
    /// The start of the heap.
    pub heap: u64,
}

/// Fields after the name since Linux 3.5 (SPEC: proc_pid_stat(5)).
const FIELDS: usize = 50;

impl Stat {
    /// Parses the fields after the *last* closing parenthesis.
    ///
    /// SECURITY: a process chooses its name, which can contain any byte. The fields after the name are one letter and
    /// numbers, so the last parenthesis always ends the name.
    ///
    /// # Errors
    /// [`NotKernelText`]
    pub fn parse(text: &[u8]) -> Result<Self, NotKernelText> {
        if text.len() > MAX_FILE {
            return Err(NotKernelText);
        }
        let close = text.iter().rposition(|byte| *byte == b')').ok_or(NotKernelText)?;
        let (before, after) = text.split_at(close);
        let open = before.iter().position(|byte| *byte == b'(').ok_or(NotKernelText)?;
        let pid = before.get(..open).and_then(|pid| pid.strip_suffix(b" ")).ok_or(NotKernelText)?;
        let after = after.strip_prefix(b") ").and_then(|fields| fields.strip_suffix(b"\n")).ok_or(NotKernelText)?;
        let mut fields: Vec<&[u8]> = Vec::with_capacity(FIELDS);
        fields.extend(after.split(|byte| *byte == b' '));
        match fields.as_slice() {
            [[state], rest @ ..] if fields.len() >= FIELDS && state.is_ascii_alphabetic() => {
                let field = |from_4th: usize| number(rest.get(from_4th).ok_or(NotKernelText)?);
                let layout = MemoryLayout { code: field(22)?, stack: field(24)?, heap: field(43)? };
                Ok(Self { pid: number(pid)?, state: *state, started: field(18)?, layout })
            }
            _ => Err(NotKernelText),
        }
    }

    /// Whether the first thread has exited; others may still run.
    #[must_use]
    pub const fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(name: &[u8]) -> Vec<u8> {
        let mut line = b"4711 (".to_vec();
        line.extend_from_slice(name);
        line.extend_from_slice(b") S 1 4711 4711 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 2 3 4 5 6 140721111 ");
        line.extend_from_slice(b"0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 8 9 10 11 12 13 14 0\n");
        line
    }

    #[test]
    fn start_code_stack_and_heap_are_fields_22_26_28_and_47() {
        let stat = Stat::parse(&line(b"bash")).unwrap();
        let layout = MemoryLayout { code: 5, stack: 140_721_111, heap: 10 };
        assert_eq!(stat, Stat { pid: 4711, state: b'S', started: 987_654, layout });
    }

    #[test]
    fn a_name_with_parentheses_and_fields_does_not_change_the_result() {
        for name in [&b") R 1 ("[..], b")", b"(((", b"a b) Z 1 1", b"\n", b"\xff\xfe"] {
            assert_eq!(Stat::parse(&line(name)), Stat::parse(&line(b"bash")), "{name:?}");
        }
    }

    #[test]
    fn a_text_that_the_kernel_does_not_write_is_refused() {
        let good = line(b"x");
        for bad in [
            good.strip_suffix(b" 0\n").unwrap(),
            good.strip_suffix(b"\n").unwrap(),
            b"4711 (x)",
            b"(x) S",
            b"",
            &b"4711 x S 1 "[..],
        ] {
            assert_eq!(Stat::parse(bad), Err(NotKernelText), "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(Stat::parse(&line(&vec![b'('; MAX_FILE])), Err(NotKernelText));
    }

    #[test]
    fn a_first_thread_is_dead_when_it_exited_and_not_when_it_is_stopped() {
        let state = |state: &str| {
            let text = String::from_utf8(line(b"x")).unwrap().replace(") S ", &format!(") {state} "));
            Stat::parse(text.as_bytes()).unwrap().is_dead()
        };
        assert!(state("Z") && state("X"));
        assert!(!state("R") && !state("S") && !state("D") && !state("T") && !state("t"));
    }

    proptest! {
        #[test]
        fn no_name_changes_the_fields(name in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(Stat::parse(&line(&name)), Stat::parse(&line(b"bash")));
        }

        #[test]
        fn no_input_makes_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = Stat::parse(&bytes);
        }
    }
}
