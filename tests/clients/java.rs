//! java-spiffe.

use crate::daemon::Daemon;
use crate::tools::entry;
use crate::tools::java_workload;
use crate::tools::succeeded;
use crate::tools::workload;

#[test]
fn java_spiffe_gets_an_svid_and_a_token_and_sees_a_rotation() {
    let Some((program, arguments)) = java_workload("java_spiffe_gets_an_svid_and_a_token_and_sees_a_rotation") else {
        return;
    };
    let node = Daemon::start(&entry("/java", program));
    let seen = succeeded(&workload(&node, program).args(arguments).arg("probe").output().unwrap());
    let id = "spiffe://example.org/java";
    assert_eq!(seen, format!("x509 {id}\njwt {id}\nrotated {id}\n"));
}
