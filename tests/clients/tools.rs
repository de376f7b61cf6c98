//! The programs that run as workloads, and their entries.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::OnceLock;

use crate::daemon::Daemon;

/// A `[[workload]]` for processes of this user that run the program at `path`.
pub(crate) fn entry(id: &str, path: &Path) -> String {
    let path = fs::canonicalize(path).unwrap();
    let uid = rustix::process::getuid().as_raw();
    // At the level "reduced" a path counts only with accept_weak; these tests run there, too.
    format!(
        "[[workload]]\nid = {id:?}\nselectors = [\"unix:uid:{uid}\", {:?}]\naccept_weak = true\n",
        format!("unix:path:{}", path.display())
    )
}

/// The Python of an environment with spiffe, spiffe-tls, PyJWT and pkilint: `BONAFIDE_TEST_PYTHON`.
pub(crate) fn python(test: &str) -> Option<PathBuf> {
    let python = std::env::var_os("BONAFIDE_TEST_PYTHON").map(PathBuf::from);
    if python.is_none() {
        skipped(test, "BONAFIDE_TEST_PYTHON does not name a Python");
    }
    python
}

/// The go-spiffe workload, built once.
pub(crate) fn go_workload(test: &str) -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/go");
        let workload = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-workload");
        let go = |arguments: &[&OsStr]| {
            let path = format!("{}:/usr/local/go/bin", std::env::var_os("PATH").unwrap_or_default().to_string_lossy());
            Command::new("sh")
                .args(["-c", "exec go \"$@\"", "go"])
                .args(arguments)
                .env("PATH", path)
                .current_dir(&source)
                .output()
        };
        let there = go(&["mod".as_ref(), "download".as_ref()]).is_ok_and(|output| output.status.success());
        there.then(|| {
            // Git refuses to read a checkout of another owner, and `go build` then fails to stamp the version.
            let flags = ["build", "-mod=readonly", "-buildvcs=false", "-o"].map(OsStr::new);
            succeeded(&go(&[&flags[..], &[workload.as_ref(), ".".as_ref()]].concat()).unwrap());
            workload
        })
    });
    if built.is_none() {
        skipped(test, "there is no Go, or its modules cannot be downloaded");
    }
    built.as_deref()
}

/// The program and the arguments that run the java-spiffe workload, built once.
pub(crate) fn java_workload(test: &str) -> Option<&'static (PathBuf, Vec<OsString>)> {
    static BUILT: OnceLock<Option<(PathBuf, Vec<OsString>)>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/java");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("java-workload");
        let path = std::env::var_os("PATH")?;
        let java = std::env::split_paths(&path).map(|folder| folder.join("java")).find(|java| java.exists())?;
        let fetch = ["--quiet", "--batch-mode", "dependency:copy-dependencies"];
        let output = format!("-DoutputDirectory={}", folder.display());
        let fetched = Command::new("mvn").args(fetch).arg(output).current_dir(&source).output();
        fetched.is_ok_and(|output| output.status.success()).then_some(())?;
        let libraries = format!("{0}/*:{0}", folder.display());
        let compile = ["-cp", &libraries, "-d", folder.to_str()?, "Workload.java", "Member.java"];
        succeeded(&Command::new("javac").args(compile).current_dir(&source).output().ok()?);
        Some((fs::canonicalize(java).ok()?, ["-cp", &libraries, "Workload"].map(OsString::from).into()))
    });
    if built.is_none() {
        skipped(test, "there is no Java or no Maven, or its libraries cannot be downloaded");
    }
    built.as_ref()
}

/// One of the cargo examples, which `cargo test` has built.
pub(crate) fn example(name: &str) -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples");
    let example = folder.join(name);
    assert!(example.exists(), "there is no {}; run: cargo build --examples", example.display());
    example
}

/// A program of `tests/clients/python`.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/python").join(name)
}

/// A workload of `daemon`, not yet started.
pub(crate) fn workload(daemon: &Daemon, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("SPIFFE_ENDPOINT_SOCKET", daemon.address()).stdin(Stdio::null());
    command
}

/// The standard output of a program that must have succeeded.
pub(crate) fn succeeded(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    out
}

/// Reports a skipped test on standard error directly, which the test harness does not capture.
pub(crate) fn skipped(test: &str, reason: &str) {
    let line = format!("skipped: {test}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}
