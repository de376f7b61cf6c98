//! Certificates under two independent checkers: `openssl verify -x509_strict`, and the linter pkilint.

use std::fs;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use spiffe::WorkloadApiClient;

use crate::daemon::Daemon;
use crate::tools::entry;
use crate::tools::python;
use crate::tools::succeeded;

/// What [`Daemon::start`] has beside an entry, with a subject: every attribute that there can be.
const SUBJECT: &str =
    "[svid]\nx509_ttl = \"10s\"\nsubject = \"OU=Web\\\\, test,O=Köln AG,L=Köln,ST=NRW,C=DE,DC=corp,DC=example\"\n";
/// The first is too long for a common name.
const DNS: &str = "dns = [\"abcdefghijklmnopqrstuvwxyz.abcdefghijklmnopqrstuvwxyz.web.internal\", \"*.web.internal\", \"web.internal\"]\n";

/// A daemon, with an SVID and its CA certificate in `svid.pem` and `authority.pem` in its directory.
async fn certified(named: bool) -> Daemon {
    let entry = entry("/rust", &std::env::current_exe().unwrap());
    let node = Daemon::start(&if named { format!("{SUBJECT}{entry}{DNS}") } else { entry });
    let client = WorkloadApiClient::connect_to(node.address()).await.unwrap();
    let context = client.fetch_x509_context().await.unwrap();
    let svid = context.default_svid().unwrap();
    let bundle = context.bundle_set().get(svid.spiffe_id().trust_domain()).unwrap();
    let pem =
        |der: &[u8]| format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der));
    fs::write(node.folder().join("svid.pem"), pem(svid.leaf().as_bytes())).unwrap();
    fs::write(node.folder().join("authority.pem"), pem(bundle.authorities()[0].as_bytes())).unwrap();
    node
}

#[tokio::test]
async fn openssl_accepts_an_svid_by_its_strictest_rules_for_both_ends_of_tls() {
    for (named, purpose) in [(false, "sslserver"), (false, "sslclient"), (true, "sslserver"), (true, "sslclient")] {
        let node = certified(named).await;
        let mut openssl = Command::new("openssl");
        openssl.args(["verify", "-x509_strict", "-check_ss_sig", "-purpose", purpose, "-CAfile", "authority.pem"]);
        let output = openssl.arg("svid.pem").current_dir(node.folder()).output().unwrap();
        assert_eq!(succeeded(&output), "svid.pem: OK\n");
    }
}

#[tokio::test]
async fn pkilint_finds_nothing_wrong_with_an_svid_and_its_authority() {
    let Some(python) = python("pkilint_finds_nothing_wrong_with_an_svid_and_its_authority") else { return };
    for named in [false, true] {
        let node = certified(named).await;
        for certificate in ["svid.pem", "authority.pem"] {
            let linter = ["lint_pkix_cert", "lint"];
            assert_eq!(lint(&python, &linter, &[certificate], node.folder()), "", "{certificate} {named}");
        }
        let chain = ["lint_pkix_signer_signee_cert_chain", "lint"];
        assert_eq!(lint(&python, &chain, &["authority.pem", "svid.pem"], node.folder()), "");
    }
}

/// The linter's findings, warnings and errors.
fn lint(python: &Path, linter: &[&str; 2], files: &[&str], folder: &Path) -> String {
    let mut command = Command::new(python);
    command.args(["-m", &format!("pkilint.bin.{}", linter[0]), linter[1], "-s", "WARNING"]);
    let output = command.args(files).current_dir(folder).output().unwrap();
    let found = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    // The linter's libraries accept web schemes only, and no wildcard (RFC 5280 leaves it to RFC 6125).
    let unknown = [
        "pkix.invalid_uri_syntax (ERROR): Invalid URI syntax: \"spiffe://",
        "pkix.invalid_domain_name_syntax (ERROR): Invalid domain name syntax: \"*.",
    ];
    let is_known = |line: &&str| !unknown.iter().any(|text| line.contains(text));
    let findings = found.lines().filter(|line| line.starts_with("    ")).filter(is_known);
    findings.map(str::trim).collect::<Vec<_>>().join("\n")
}
