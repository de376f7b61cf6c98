//! Settings that a reload changes under a running node.

use bonafide::agent::reload::ReloadTrigger;
use tokio::io::AsyncReadExt as _;

use crate::kernel::FakeProcess;
use crate::node::TestNode;
use crate::node::workload;

fn tables(limits: &str) -> String {
    format!("[limits]\n{limits}\n{}", workload("/web", &["unix:uid:1000"]))
}

#[tokio::test(start_paused = true)]
async fn reloaded_limits_count_for_the_next_connection_and_end_none() {
    let node = TestNode::start(7, &tables("connections_per_caller = 8"));
    let process = node.kernel.spawn(FakeProcess::default());
    let mut streams = [node.workload(&process).await, node.workload(&process).await];
    assert!(node.reload(&tables("connections = 2"), ReloadTrigger::Asked).swapped);
    let refused = node.connect(&process).bytes.read(&mut [0; 1]).await;
    assert!(matches!(refused, Ok(0) | Err(_)), "{refused:?}");
    for stream in &mut streams {
        assert_eq!(stream.ids().await, ["spiffe://example.org/web"]);
    }
    assert!(node.reload(&tables("connections = 9"), ReloadTrigger::Asked).swapped);
    assert_eq!(node.workload(&process).await.ids().await, ["spiffe://example.org/web"]);
}
