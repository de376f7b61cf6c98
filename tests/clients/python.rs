//! The PyPI packages `spiffe` and `grpcio`, whose stack sends the socket's path as `:authority`, and `PyJWT`.

use std::fs;

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
fn py_spiffe_calls_the_whole_api_and_sees_a_rotation() {
    let test = "py_spiffe_calls_the_whole_api_and_sees_a_rotation";
    let Some(seen) = run(test, "workload.py", &["probe"]) else { return };
    let id = "spiffe://example.org/python";
    assert_eq!(seen, format!("x509 {id}\njwt {id}\nrotated {id}\n"));
}

/// Bundles of two partners: the one publishes a JWT key and no root, the other a root and no JWT key.
const JWT_ONLY: &[u8] = include_bytes!("../fuzz/corpus/bundle/jwt_key");
const X509_ONLY: &[u8] = include_bytes!("../fuzz/corpus/bundle/pem");

#[test]
fn py_spiffe_keeps_its_identity_beside_partners_with_one_kind_of_key() {
    let test = "py_spiffe_keeps_its_identity_beside_partners_with_one_kind_of_key";
    let Some(python) = python(test) else { return };
    let folder = tempfile::tempdir().unwrap();
    let partner = |trust_domain: &str, bundle: &[u8]| {
        let file = folder.path().join(trust_domain);
        fs::write(&file, bundle).unwrap();
        format!("[[federation]]\ntrust_domain = {trust_domain:?}\nbundle_file = {file:?}\n")
    };
    let partners = partner("jwt.example", JWT_ONLY) + &partner("x509.example", X509_ONLY);
    let federates = "federates_with = [\"jwt.example\", \"x509.example\"]\n";
    let node = Daemon::start(&(partners + &entry("/python", &python) + federates));
    let output = workload(&node, &python).arg(script("workload.py")).arg("federated").output().unwrap();
    assert_eq!(
        succeeded(&output),
        "id spiffe://example.org/python\n\
         svid example.org x509.example\n\
         x509 example.org x509.example\n\
         jwt example.org jwt.example\n"
    );
}

#[test]
fn pyjwt_verifies_a_jwt_svid() {
    let Some(seen) = run("pyjwt_verifies_a_jwt_svid", "workload.py", &["token", "ledger"]) else {
        return;
    };
    let token: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(token["header"]["alg"], "ES256");
    assert_eq!(token["header"]["typ"], "JWT");
    assert_eq!(token["claims"]["sub"], "spiffe://example.org/python");
}

#[test]
fn hostile_requests_are_refused_and_disturb_no_other_client() {
    let Some(seen) = run("hostile_requests_are_refused_and_disturb_no_other_client", "hostile.py", &[]) else { return };
    assert!(seen.lines().count() > 20, "{seen}");
}
