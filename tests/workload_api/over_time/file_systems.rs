//! File systems that hang under the executable of a process. The paused clock stands still while a thread hangs, so these
//! tests move it.

use std::time::Duration;

use aws_lc_rs::digest::SHA256;
use aws_lc_rs::digest::digest;
use bonafide::evidence::Undecided;
use futures_util::FutureExt as _;
use tonic::Code;

use crate::kernel::FakeProcess;
use crate::kernel::faults::Question;
use crate::node::Seen;
use crate::node::TestNode;
use crate::node::Updates;
use crate::node::ids;
use crate::node::workload;

/// `[attest] wait`, by default.
const WAIT: Duration = Duration::from_secs(5);
const UID: &str = "spiffe://example.org/uid";
const PROVEN: &str = "spiffe://example.org/proven";
const HANGING: [Question; 3] = [Question::AtPath, Question::FileSystem, Question::Bytes];

fn by_uid() -> String {
    workload("/uid", &["unix:uid:1000"])
}

/// An entry that needs what only the hanging file system can prove.
fn by_file(question: Question) -> String {
    let process = FakeProcess::default();
    let content: String = digest(&SHA256, process.exe.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let fact = match question {
        Question::AtPath => format!("unix:path:{}", process.exe),
        _ => format!("unix:sha256:{content}"),
    };
    workload("/proven", &["unix:uid:1000", &fact])
}

/// Lets the node do all that it can without a thread, for there is no time limit that could end a wait for one.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// The IDs of an update that is there.
async fn ids_now(updates: &mut Updates) -> Option<Vec<String>> {
    settle().await;
    updates.ids().now_or_never()
}

fn some(ids: &[&str]) -> Option<Vec<String>> {
    Some(ids.iter().map(|id| (*id).to_owned()).collect())
}

#[tokio::test(start_paused = true)]
async fn a_hanging_file_system_delays_no_identity_of_an_earlier_entry() {
    for question in HANGING {
        let node = TestNode::start(7, &(by_uid() + &by_file(question)));
        let web = node.kernel.spawn(FakeProcess::default());
        let hang = web.hang(question);
        let mut stream = node.workload_later(&web);
        assert_eq!(ids_now(&mut stream).await, some(&[UID]), "{question:?}");
        drop(hang);
        assert_eq!(stream.ids().await, [UID, PROVEN], "{question:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_answer_waits_for_a_hanging_file_system_and_no_longer() {
    for question in HANGING {
        let node = TestNode::start(7, &(by_file(question) + &by_uid()));
        let web = node.kernel.spawn(FakeProcess::default());
        let hang = web.hang(question);
        let mut stream = node.workload_later(&web);
        assert_eq!(ids_now(&mut stream).await, None, "{question:?}");
        tokio::time::advance(WAIT).await;
        assert_eq!(ids_now(&mut stream).await, some(&[UID]), "{question:?}");
        let mut next = node.workload_later(&web);
        assert_eq!(ids_now(&mut next).await, some(&[UID]), "{question:?}: the next caller does not wait");
        drop(hang);
        // A hash that came too late is thrown away, and asked for again at the next decision.
        if question == Question::AtPath {
            assert_eq!(stream.ids().await, [PROVEN, UID]);
        }
        tokio::time::sleep(WAIT).await;
        assert_eq!(node.workload(&web).await.ids().await, [PROVEN, UID], "{question:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_only_a_failing_file_system_could_help_may_retry() {
    for question in HANGING {
        let node = TestNode::start(7, &by_file(question));
        let (web, neighbour) = (node.kernel.spawn(FakeProcess::default()), node.kernel.spawn(FakeProcess::default()));
        web.fail_at(question, Undecided::OutOfDescriptors);
        let mut stream = node.workload(&web).await;
        assert_eq!(stream.next().await, Seen::End(Code::Unavailable), "{question:?}");
        // A path belongs to every process that runs the file there.
        if question != Question::AtPath {
            assert_eq!(node.workload(&neighbour).await.ids().await, [PROVEN], "{question:?}");
        }
        node.kernel.heal();
        let Some(Seen::Update(update)) = node.workload(&web).await.within(WAIT).await else { panic!("{question:?}") };
        assert_eq!(ids(&update), [PROVEN], "{question:?}");
    }
}
