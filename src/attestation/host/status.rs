//! Parser for `/proc/PID/status`.

use crate::attestation::host::MAX_FILE;
use crate::attestation::host::NotKernelText;
use crate::attestation::host::number;
use crate::attestation::kernel::Ids;

/// The lines of `status` that attestation uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Process id in the PID namespace of the `/proc` mount.
    pub pid: u32,
    /// User ids.
    pub uids: Ids,
    /// Group ids.
    pub gids: Ids,
    /// Supplementary groups, in the kernel's order.
    pub groups: Vec<u32>,
}

impl Status {
    /// Parses the lines `Tgid`, `Uid`, `Gid` and `Groups`; each must occur exactly once.
    ///
    /// SECURITY: a process chooses its name in the first line. The kernel escapes line feeds there, so a name cannot
    /// forge a line, and keys are only matched at the start of a line.
    ///
    /// # Errors
    /// [`NotKernelText`]
    pub fn parse(text: &[u8]) -> Result<Self, NotKernelText> {
        if text.len() > MAX_FILE {
            return Err(NotKernelText);
        }
        let (mut pid, mut uids, mut gids, mut groups) = (None, None, None, None);
        for line in text.split(|byte| *byte == b'\n') {
            if let Some(value) = line.strip_prefix(b"Tgid:\t") {
                set_once(&mut pid, number(value)?)?;
            } else if let Some(value) = line.strip_prefix(b"Uid:\t") {
                set_once(&mut uids, ids(value)?)?;
            } else if let Some(value) = line.strip_prefix(b"Gid:\t") {
                set_once(&mut gids, ids(value)?)?;
            } else if let Some(value) = line.strip_prefix(b"Groups:\t") {
                let ids = value.split(|byte| *byte == b' ').filter(|id| !id.is_empty());
                set_once(&mut groups, ids.map(number).collect::<Result<_, _>>()?)?;
            }
        }
        match (pid, uids, gids, groups) {
            (Some(pid), Some(uids), Some(gids), Some(groups)) => Ok(Self { pid, uids, gids, groups }),
            _ => Err(NotKernelText),
        }
    }
}

fn set_once<T>(slot: &mut Option<T>, value: T) -> Result<(), NotKernelText> {
    if slot.replace(value).is_some() { Err(NotKernelText) } else { Ok(()) }
}

fn ids(value: &[u8]) -> Result<Ids, NotKernelText> {
    let mut ids = value.split(|byte| *byte == b'\t').map(number);
    let mut next = || ids.next().unwrap_or(Err(NotKernelText));
    let found = Ids { real: next()?, effective: next()?, saved: next()?, fs: next()? };
    if ids.next().is_some() { Err(NotKernelText) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASH: &str = "Name:\tbash\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t4711\nNgid:\t0\nPid:\t4711\nPPid:\t1\n\
                        TracerPid:\t0\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\t6\t7\t8\nFDSize:\t256\n\
                        Groups:\t4 27 1000 \nNStgid:\t4711\nNSpid:\t4711\n";

    #[test]
    fn ids_and_groups_are_parsed_in_the_order_of_the_kernel() {
        let status = Status::parse(BASH.as_bytes()).unwrap();
        assert_eq!(status.pid, 4711);
        assert_eq!(status.uids, Ids { real: 1000, effective: 1001, saved: 1002, fs: 1003 });
        assert_eq!(status.gids, Ids { real: 5, effective: 6, saved: 7, fs: 8 });
        assert_eq!(status.groups, [4, 27, 1000]);
    }

    #[test]
    fn a_process_without_supplementary_groups_has_none() {
        let text = BASH.replace("Groups:\t4 27 1000 \n", "Groups:\t \n");
        assert_eq!(Status::parse(text.as_bytes()).unwrap().groups, Vec::<u32>::new());
    }

    #[test]
    fn a_name_that_looks_like_a_line_does_not_change_the_result() {
        let text = BASH.replace("Name:\tbash", "Name:\tx\\nUid:\t0\t0\t0\t0");
        assert_eq!(Status::parse(text.as_bytes()), Status::parse(BASH.as_bytes()));
    }

    #[test]
    fn a_text_that_the_kernel_does_not_write_is_refused() {
        for (from, to) in [
            ("Uid:\t1000\t1001\t1002\t1003\n", ""),
            ("Uid:\t1000\t1001\t1002\t1003\n", "Uid:\t1000\t1001\t1002\n"),
            ("Uid:\t1000\t1001\t1002\t1003\n", "Uid:\t1000\t1001\t1002\t1003\t1\n"),
            ("Uid:\t1000\t", "Uid:\t+1000\t"),
            ("Uid:\t1000\t", "Uid:\t4294967296\t"),
            ("Gid:\t5", "Gid:\t-5"),
            ("Groups:", "Uid:\t0\t0\t0\t0\nGroups:"),
            ("Groups:\t4 27", "Groups:\t4,27"),
        ] {
            let text = BASH.replace(from, to);
            assert_eq!(Status::parse(text.as_bytes()), Err(NotKernelText), "{text}");
        }
        assert_eq!(Status::parse(&vec![b'\n'; MAX_FILE + 1]), Err(NotKernelText));
    }

    proptest! {
        #[test]
        fn no_name_changes_the_ids(name in "[^\\n]{0,64}") {
            let text = BASH.replace("Name:\tbash", &format!("Name:\t{name}"));
            prop_assert_eq!(Status::parse(text.as_bytes()), Status::parse(BASH.as_bytes()));
        }

        #[test]
        fn no_input_makes_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = Status::parse(&bytes);
        }
    }
}
