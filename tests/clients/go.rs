//! go-spiffe, as a module.

use crate::daemon::Daemon;
use crate::tools::entry;
use crate::tools::go_workload;
use crate::tools::succeeded;
use crate::tools::workload;

#[test]
fn go_spiffe_calls_the_whole_api_and_sees_a_rotation() {
    let Some(program) = go_workload("go_spiffe_calls_the_whole_api_and_sees_a_rotation") else { return };
    let node = Daemon::start(&entry("/go", program));
    let seen = succeeded(&workload(&node, program).arg("probe").output().unwrap());
    let id = "spiffe://example.org/go";
    assert_eq!(seen, format!("x509 {id}\njwt {id}\nrotated {id}\n"));
}
