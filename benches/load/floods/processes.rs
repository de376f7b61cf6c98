//! Processes that are costly to look at, and the yardstick.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use crate::floods::Site;
use crate::floods::requests;
use crate::surroundings::THIS_PROGRAM;

const REFUSALS_PER_PROCESS: usize = 64;

pub(super) fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// Idle threads, or as many as the kernel gives.
pub(super) fn start_threads(threads: usize) {
    let idle = || std::thread::sleep(Duration::from_secs(3_600));
    for _ in 0..threads {
        if std::thread::Builder::new().stack_size(16 * 1024).spawn(idle).is_err() {
            break;
        }
    }
}

/// Is refused 64 times as one process image, and then becomes another.
pub(super) fn be_refused_and_start_again(site: &Site) -> ! {
    for _ in 0..REFUSALS_PER_PROCESS {
        let _refused = requests::ask_once(site);
    }
    let error = Command::new(THIS_PROGRAM).args(std::env::args_os().skip(1)).exec();
    panic!("this program cannot be started again: {error}");
}
