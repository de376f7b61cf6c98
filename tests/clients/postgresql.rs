//! A PostgreSQL server that serves TLS with an SVID, and authenticates its clients by the common name of theirs.

use std::fs;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::daemon::Daemon;
use crate::tools::skipped;
use crate::tools::succeeded;

/// The users of the server and of two clients. PostgreSQL does not run as root.
const SERVER: u32 = 65534;
const ALICE: u32 = 0;
const BOB: u32 = 41000;
const ENTRIES: &str = "\
    [[workload]]\nid = \"/postgresql\"\nselectors = [\"unix:uid:65534\"]\ndns = [\"postgresql.internal\"]\n\
    [[workload]]\nid = \"/alice\"\nselectors = [\"unix:uid:0\", \"host:true\"]\ndns = [\"alice.internal\", \"a.internal\"]\n\
    [[workload]]\nid = \"/bob\"\nselectors = [\"unix:uid:41000\"]\ndns = [\"bob.internal\"]\n";
const ROLES: &str = "CREATE ROLE \"alice.internal\" LOGIN;\nCREATE ROLE \"bob.internal\" LOGIN;\n";
const ACCESS: &str = "hostssl all all 127.0.0.1/32 cert\n";
const SETTINGS: &str = "\
    listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\nssl = on\n\
    ssl_cert_file = '../svid.0.pem'\nssl_key_file = '../svid.0.key'\nssl_ca_file = '../bundle.0.pem'\n";

/// A daemon, and a server whose database has a role for the common name of each client.
struct Database {
    node: Daemon,
    /// A copy of `bonafide`, and for each user a folder of its name with its files, in a place that all of them can enter.
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    server: Option<Child>,
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let pid = Pid::from_raw(i32::try_from(server.id()).unwrap());
            let _already_ended = (kill(pid, Signal::SIGQUIT), server.wait());
        }
        if std::thread::panicking() {
            eprintln!(
                "the server's output:\n{}",
                fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
            );
        }
    }
}

impl Database {
    /// Where there can be none, prints the reason and returns `None`.
    fn start(test: &str, x509_ttl: &str) -> Option<Self> {
        let programs = programs();
        if programs.is_none() || !rustix::process::geteuid().is_root() {
            skipped(test, "needs root, and PostgreSQL in /usr/lib/postgresql");
            return None;
        }
        let folder = TempDir::with_prefix("bonafide-").unwrap();
        let node = Daemon::start(&format!("[svid]\nx509_ttl = {x509_ttl:?}\n{ENTRIES}"));
        for open in [folder.path(), node.folder()] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::copy(env!("CARGO_BIN_EXE_bonafide"), folder.path().join("bonafide")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut database = Self { node, folder, programs: programs?, port, server: None };
        for user in [SERVER, ALICE, BOB] {
            let files = database.files(user);
            fs::create_dir(&files).unwrap();
            chown(&files, Some(user), Some(user)).unwrap();
            database.fetch(user);
        }
        database.server = Some(database.serve());
        let begun = Instant::now();
        while let Err(why) = database.log_in(ALICE, "alice.internal") {
            assert!(why.contains("Connection refused") || why.contains("starting up"), "{why}");
            assert!(begun.elapsed() < Duration::from_secs(30), "no server after 30 s: {why}");
        }
        Some(database)
    }

    /// Makes a database, and starts the server.
    fn serve(&self) -> Child {
        let data = self.files(SERVER).join("data");
        let postgres = |name: &str| self.command(SERVER, self.programs.join(name));
        let initdb = ["-U", "postgres", "-A", "reject", "-E", "UTF8", "--locale", "C", "--no-sync", "-D"];
        succeeded(&postgres("initdb").args(initdb).arg(&data).output().unwrap());
        fs::write(data.join("pg_hba.conf"), ACCESS).unwrap();
        fs::write(data.join("roles"), ROLES).unwrap();
        let roles = File::open(data.join("roles")).unwrap();
        succeeded(
            &postgres("postgres").arg("--single").arg("-D").arg(&data).arg("postgres").stdin(roles).output().unwrap(),
        );
        fs::write(data.join("postgresql.conf"), format!("{SETTINGS}port = {}\n", self.port)).unwrap();
        let log = File::create(self.folder.path().join("log")).unwrap();
        postgres("postgres").arg("-D").arg(&data).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    /// A command of this user, which ends after a minute.
    fn command(&self, user: u32, program: PathBuf) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--signal=QUIT", "60"]).arg(program).uid(user).gid(user).current_dir(self.folder.path());
        command.env("LC_ALL", "C").env("SPIFFE_ENDPOINT_SOCKET", self.node.address()).stdin(Stdio::null());
        command
    }

    fn files(&self, user: u32) -> PathBuf {
        self.folder.path().join(user.to_string())
    }

    /// Writes a new SVID of this user in place of the one before.
    fn fetch(&self, user: u32) {
        let mut fetch = self.command(user, self.folder.path().join("bonafide"));
        succeeded(&fetch.args(["fetch", "x509", "--write"]).arg(self.files(user)).output().unwrap());
    }

    /// Has the server read its files again.
    fn reload(&self) {
        let mut reload = self.command(SERVER, self.programs.join("pg_ctl"));
        succeeded(&reload.args(["reload", "-D"]).arg(self.files(SERVER).join("data")).output().unwrap());
    }

    /// The role that the server gives to this user, who asks for `role`, or the refusal.
    fn log_in(&self, user: u32, role: &str) -> Result<String, String> {
        self.log_in_with(user, role, "sslcert=svid.0.pem sslkey=svid.0.key")
    }

    fn log_in_with(&self, user: u32, role: &str, certificate: &str) -> Result<String, String> {
        let to = format!("host=postgresql.internal hostaddr=127.0.0.1 port={} dbname=postgres user={role}", self.port);
        let tls = "sslmode=verify-full sslrootcert=bundle.0.pem connect_timeout=10";
        let mut psql = self.command(user, self.programs.join("psql"));
        psql.current_dir(self.files(user)).args(["-XAtc", "SELECT current_user", &format!("{to} {tls} {certificate}")]);
        let Output { status, stdout, stderr } = psql.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end().to_owned();
        if status.success() { Ok(text(stdout)) } else { Err(text(stderr)) }
    }
}

/// The folder with the programs of the newest PostgreSQL server. Debian has them on no `PATH`.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let number = |version: &fs::DirEntry| version.file_name().to_str()?.parse::<u32>().ok();
    let with_server = versions.filter(|version| version.path().join("bin/initdb").exists());
    with_server.max_by_key(number).map(|newest| newest.path().join("bin"))
}

fn assert_refused(refused: Result<String, String>, because: &str) {
    let why = refused.expect_err("a refusal");
    assert!(why.contains(because), "{why}");
}

#[test]
fn postgresql_logs_a_workload_in_as_the_role_of_its_common_name_and_as_no_other() {
    let test = "postgresql_logs_a_workload_in_as_the_role_of_its_common_name_and_as_no_other";
    let Some(database) = Database::start(test, "30m") else { return };
    assert_eq!(database.log_in(ALICE, "alice.internal").as_deref(), Ok("alice.internal"));
    assert_eq!(database.log_in(BOB, "bob.internal").as_deref(), Ok("bob.internal"));
    for (user, role) in [(BOB, "alice.internal"), (ALICE, "bob.internal"), (ALICE, "postgres")] {
        let refusal = format!("certificate authentication failed for user \"{role}\"");
        assert_refused(database.log_in(user, role), &refusal);
    }
    let without = database.log_in_with(ALICE, "alice.internal", "sslcert=none");
    assert_refused(without, "connection requires a valid client certificate");
}

#[test]
fn postgresql_and_its_client_go_on_with_renewed_files_and_not_with_those_that_are_over() {
    let test = "postgresql_and_its_client_go_on_with_renewed_files_and_not_with_those_that_are_over";
    let Some(database) = Database::start(test, "20s") else { return };
    let log_in = || database.log_in(ALICE, "alice.internal");
    let begun = Instant::now();
    while log_in().is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(25), "the server takes an SVID of 20 s after 25 s");
    }
    database.fetch(SERVER);
    database.reload();
    let begun = Instant::now();
    while let Err(why) = log_in()
        && !why.contains("alert certificate expired")
    {
        assert!(begun.elapsed() < Duration::from_secs(10), "the server serves an SVID that is over: {why}");
    }
    database.fetch(ALICE);
    assert_eq!(log_in().as_deref(), Ok("alice.internal"));
}
