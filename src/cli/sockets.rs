//! Where a client command finds the daemon's sockets (SPEC: product contract §4): the flag, the environment, the
//! configuration given, the default.

use std::path::Path;
use std::path::PathBuf;

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;

/// The workload socket where nothing says otherwise.
pub const WORKLOAD_SOCKET: &str = "/run/bonafide/workload.sock";
/// The admin socket where nothing says otherwise.
pub const ADMIN_SOCKET: &str = "/run/bonafide-admin/admin.sock";

/// Names the workload socket.
#[derive(Debug, clap::Args)]
pub struct WorkloadSocket {
    /// The workload socket, as a path or unix: address
    #[arg(long, value_name = "SOCKET", env = "SPIFFE_ENDPOINT_SOCKET", hide_env_values = true)]
    socket: Option<String>,
    /// Take the socket from this configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Names the admin socket.
#[derive(Debug, clap::Args)]
pub struct AdminSocket {
    /// The admin socket, as a path or unix: address
    #[arg(long, value_name = "SOCKET", env = "BONAFIDE_ADMIN_SOCKET", hide_env_values = true)]
    admin_socket: Option<String>,
    /// Take the socket from this configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl WorkloadSocket {
    /// The path of the workload socket.
    ///
    /// # Errors
    /// [`Failure`] when the text is no Unix socket, or the configuration cannot be read.
    pub fn path(&self) -> Result<PathBuf, Failure> {
        find(self.socket.as_deref(), self.config.as_deref(), "workload_api", WORKLOAD_SOCKET)
    }
}

impl AdminSocket {
    /// The path of the admin socket.
    ///
    /// # Errors
    /// As [`WorkloadSocket::path`].
    pub fn path(&self) -> Result<PathBuf, Failure> {
        find(self.admin_socket.as_deref(), self.config.as_deref(), "admin", ADMIN_SOCKET)
    }

    /// The flags that name the same socket, each after a blank, for a command that somebody is told to type.
    #[must_use]
    pub fn as_typed(&self) -> String {
        let config = self.config.as_ref().map(|config| config.to_string_lossy().into_owned());
        let flags = [("admin-socket", self.admin_socket.clone()), ("config", config)];
        let given = flags.into_iter().filter_map(|(flag, value)| Some(format!(" --{flag} {}", quoted(&value?))));
        given.collect()
    }
}

/// A word as a shell takes it (SPEC: POSIX.1, Shell Command Language §2.2.2).
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-:@%+=,".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn find(named: Option<&str>, config: Option<&Path>, table: &str, default: &str) -> Result<PathBuf, Failure> {
    match (named, config) {
        (Some(address), _) => unix_path(address),
        (None, Some(config)) => Ok(socket_in(config, table)?.unwrap_or_else(|| default.into())),
        (None, None) => Ok(default.into()),
    }
}

/// The path in `/path`, `unix:/path` or `unix:///path` (SPEC: Workload Endpoint §4).
fn unix_path(address: &str) -> Result<PathBuf, Failure> {
    let path = address.strip_prefix("unix:").unwrap_or(address);
    let path = path.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(path);
    if path.starts_with('/') && !path.starts_with("//") {
        return Ok(path.into());
    }
    Err(Failure::new(
        Exit::Usage,
        format!("{address:?} is not the address of a Unix socket"),
        "it is neither an absolute path nor unix: with one",
        format!("name it as unix://{WORKLOAD_SOCKET}"),
    ))
}

/// The `socket` key of one table. A client needs nothing else of the file, which need not be valid for it.
fn socket_in(config: &Path, table: &str) -> Result<Option<PathBuf>, Failure> {
    let unusable = |why: String| {
        let file = config.display();
        Failure::new(
            Exit::Usage,
            format!("cannot take the socket from {file}"),
            why,
            format!("bonafide config check {file}"),
        )
    };
    let text = std::fs::read_to_string(config).map_err(|error| unusable(error.to_string()))?;
    let document = text.parse::<toml::Table>().map_err(|error| unusable(error.message().to_owned()))?;
    Ok(document.get(table).and_then(|table| table.get("socket")?.as_str()).map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn an_address_is_a_path_with_or_without_its_scheme() {
        for address in ["/run/a.sock", "unix:/run/a.sock", "unix:///run/a.sock"] {
            assert_eq!(unix_path(address).unwrap(), Path::new("/run/a.sock"), "{address}");
        }
    }

    #[test]
    fn an_address_that_is_no_unix_path_is_wrong_usage() {
        for address in ["", "a.sock", "unix:", "unix://run/a.sock", "unix:a.sock", "tcp://127.0.0.1:1", "http:/x"] {
            assert_eq!(unix_path(address).unwrap_err().exit, Exit::Usage, "{address}");
        }
    }

    #[test]
    fn a_socket_is_named_again_as_a_shell_takes_it() {
        let socket = |admin_socket: Option<&str>, config: Option<&str>| {
            AdminSocket { admin_socket: admin_socket.map(str::to_owned), config: config.map(PathBuf::from) }.as_typed()
        };
        assert_eq!(socket(None, None), "");
        assert_eq!(
            socket(Some("unix:/run/a.sock"), Some("/etc/b.toml")),
            " --admin-socket unix:/run/a.sock --config /etc/b.toml"
        );
        assert_eq!(socket(Some("/it's; a"), None), " --admin-socket '/it'\\''s; a'");
    }

    #[test]
    fn a_flag_wins_over_the_configuration_and_that_over_the_default() {
        let mut config = tempfile::NamedTempFile::new().unwrap();
        config.write_all(b"[admin]\nsocket = \"/from/config\"\n").unwrap();
        let found = |named, config| find(named, config, "admin", ADMIN_SOCKET).unwrap();
        assert_eq!(found(Some("/named"), Some(config.path())), Path::new("/named"));
        assert_eq!(found(None, Some(config.path())), Path::new("/from/config"));
        assert_eq!(found(None, None), Path::new(ADMIN_SOCKET));
        assert_eq!(
            find(None, Some(config.path()), "workload_api", WORKLOAD_SOCKET).unwrap(),
            Path::new(WORKLOAD_SOCKET)
        );
    }
}
