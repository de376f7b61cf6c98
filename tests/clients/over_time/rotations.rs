//! Services in four languages keep talking mTLS while their SVIDs rotate and the daemon is killed.

use crate::conversation::Conversation;
use crate::conversation::Program;
use crate::daemon::Daemon;
use crate::tools::entry;

/// At 100 ms each, these take longer than eleven renewals of an SVID that is renewed after half of its 10 s.
const REQUESTS: usize = 640;
/// The number of answers after which the daemon is killed.
const KILLED_AFTER: usize = 240;

#[test]
fn services_keep_mtls_through_ten_rotations_and_a_killed_daemon() {
    let others = Program::others("services_keep_mtls_through_ten_rotations_and_a_killed_daemon");
    let (rust_server, rust_client) = (Program::rust_server(), Program::rust_client("/rust-client"));
    let all = [&rust_server, &rust_client].into_iter().chain(&others);
    let mut node = Daemon::start(&all.map(|program| entry(program.id, &program.path)).collect::<String>());
    let begin = |server, client| Conversation::begin(&node, server, client, REQUESTS);
    let mut conversations = vec![begin(&rust_server, &rust_client)];
    for other in &others {
        conversations.extend([begin(&rust_server, other), begin(other, &rust_client)]);
    }
    for conversation in &mut conversations {
        conversation.read_answers(KILLED_AFTER);
    }
    node.kill_and_restart();
    for conversation in conversations {
        conversation.end(0, 10);
    }
}
