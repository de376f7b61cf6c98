//! The PyPI packages `spiffe` and `grpcio`, whose stack sends the socket's path as `:authority`, and `PyJWT`.

use serde_json::Value;

use crate::daemon::Daemon;
use crate::tools::entry;
use crate::tools::python;
use crate::tools::script;
use crate::tools::succeeded;
use crate::tools::workload;

fn run(test: &str, program: &str, arguments: &[&str]) -> Option<String> {
    let python = python(test)?;
    let node = Daemon::start(&entry("/python", &python));
    let output = workload(&node, &python).arg(script(program)).args(arguments).output().unwrap();
    Some(succeeded(&output))
}

#[test]
fn py_spiffe_gets_all_that_the_api_has_and_sees_a_rotation() {
    let test = "py_spiffe_gets_all_that_the_api_has_and_sees_a_rotation";
    let Some(seen) = run(test, "workload.py", &["probe"]) else { return };
    let id = "spiffe://example.org/python";
    assert_eq!(seen, format!("x509 {id}\njwt {id}\nrotated {id}\n"));
}

#[test]
fn pyjwt_takes_our_tokens_for_ordinary_ones() {
    let Some(seen) = run("pyjwt_takes_our_tokens_for_ordinary_ones", "workload.py", &["token", "ledger"]) else {
        return;
    };
    let token: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(token["header"]["alg"], "ES256");
    assert_eq!(token["header"]["typ"], "JWT");
    assert_eq!(token["claims"]["sub"], "spiffe://example.org/python");
}

#[test]
fn hostile_requests_are_refused_and_hurt_nobody() {
    let Some(seen) = run("hostile_requests_are_refused_and_hurt_nobody", "hostile.py", &[]) else { return };
    assert!(seen.lines().count() > 20, "{seen}");
}
