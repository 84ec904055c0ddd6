//! A temporary Postgres server for the tests of one process.
//!
//! It must be gone when the tests are, also after a panic, an abort or a `kill -9` of the test process, when no
//! destructor and no exit handler runs. So a small shell script keeps it: it starts the server, then reads from a pipe
//! whose other end only the test process has. When that process ends, however it does, the read returns; the script
//! stops the server and removes its folder.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

/// What keeps the server; `$1` is the folder of Postgres' programs. It runs in the server's own folder.
const KEEPER: &str = include_str!("cluster.sh");

/// The first lines of its `pg_hba.conf`: one role whose password counts, and everybody else is let in. Only the user
/// that runs the tests can reach the socket.
const LOGINS: &str = "local all guarded scram-sha-256\nlocal all all trust\n";

/// Its settings: nothing it stores outlives the tests. But what it has committed outlives its own processes (`synchronous_commit` is
/// on, as it is without a word): tests kill them, and would find events and claims gone that they have seen.
const SETTINGS: &str = "
fsync = off
full_page_writes = off
max_connections = 200
max_prepared_transactions = 20
listen_addresses = ''
";

/// A running server of its own.
#[derive(Debug)]
pub struct Cluster {
    /// Its folder, with `data`, the log and the socket.
    folder: PathBuf,
    /// The folder of Postgres' programs.
    programs: PathBuf,
    /// Who runs it, if not this process's own user.
    user: Option<User>,
    /// Where it listens, and what its socket is named after.
    port: u16,
    /// The script that keeps it.
    keeper: Child,
    /// What the script reads from; `None` once the server has to end.
    pipe: Option<ChildStdin>,
}

/// A user of this machine: initdb refuses to run as root.
#[derive(Clone, Copy, Debug)]
struct User {
    /// Its number.
    uid: u32,
    /// Its group's.
    gid: u32,
}

impl Cluster {
    /// The server of this process, started when it is first asked for.
    ///
    /// # Panics
    /// When there is none to start; the message says what to install.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A server for one test, which may restart it; stopped when dropped.
    ///
    /// # Panics
    /// As [`Cluster::shared`].
    #[must_use]
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// As [`Cluster::start`], with more lines for its `postgresql.conf`.
    ///
    /// # Panics
    /// As [`Cluster::shared`].
    #[must_use]
    pub fn start_with(settings: &str) -> Self {
        Self::start_at(5432, settings)
    }

    /// As [`Cluster::start`], with these lines in front of its `pg_hba.conf`: who is let in, and how.
    ///
    /// # Panics
    /// As [`Cluster::shared`].
    #[must_use]
    pub fn start_letting_in(lines: &str) -> Self {
        let cluster = Self::start();
        std::fs::write(cluster.folder.join("data/pg_hba.conf"), format!("{lines}{LOGINS}"))
            .expect("writing who is let in");
        cluster.control(&["reload"]);
        cluster
    }

    /// As [`Cluster::start`], also at a free port of 127.0.0.1, with this certificate and its key, from clients whose
    /// certificates are checked by this CA: all in PEM. Only TLS is let in there, and as the role `certified` only who has
    /// a certificate of that name.
    ///
    /// # Panics
    /// As [`Cluster::shared`].
    #[must_use]
    pub fn start_with_tls(certificate: &str, key: &str, ca: &str) -> Self {
        let cluster = Self::start_with_tls_off();
        let data = cluster.folder.join("data");
        for (name, content) in [("server.crt", certificate), ("server.key", key), ("ca.crt", ca)] {
            let path = data.join(name);
            std::fs::write(&path, content).expect("writing a certificate");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("keeping a key to oneself");
            if let Some(User { uid, gid }) = cluster.user {
                std::os::unix::fs::chown(&path, Some(uid), Some(gid)).expect("giving it to the server's user");
            }
        }
        let hosts = "hostssl all certified 127.0.0.1/32 cert\nhostssl all all 127.0.0.1/32 trust\n";
        std::fs::write(data.join("pg_hba.conf"), format!("{LOGINS}{hosts}")).expect("writing who is let in");
        let tls = "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\nssl_ca_file = 'ca.crt'\n";
        std::fs::write(data.join("postgresql.auto.conf"), tls).expect("writing settings");
        cluster.control(&["restart", "--mode=fast", "--log", "log"]);
        cluster
    }

    /// As [`Cluster::start`], also at a free port of 127.0.0.1.
    ///
    /// # Panics
    /// As [`Cluster::shared`].
    #[must_use]
    pub fn start_with_tls_off() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its number").port();
        drop(listener);
        Self::start_at(port, "listen_addresses = '127.0.0.1'\n")
    }

    /// The port of 127.0.0.1 at which it listens, if it does.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts one with its socket named after this port.
    fn start_at(port: u16, settings: &str) -> Self {
        let programs = programs().unwrap_or_else(|| {
            panic!(
                "Postgres' server programs (initdb, pg_ctl) were found neither in PATH, nor by `pg_config --bindir`, nor \
                 in /usr/lib/postgresql/*/bin; install them (Debian: apt-get install postgresql), or name a server \
                 in DATABASE_URL"
            )
        });
        let user = rustix::process::geteuid().is_root().then(unprivileged);
        let folder = tempfile::Builder::new()
            .prefix("projectionist-postgres-")
            .tempdir()
            .expect("a folder for the server")
            .keep();
        if let Some(User { uid, gid }) = user {
            std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).expect("giving the folder to the server's user");
        }
        let mut command = as_user(&programs, &folder, user, "sh");
        command.args(["-c", KEEPER, "projectionist-postgres"]).arg(&programs);
        command.env("LOGINS", LOGINS).env("SETTINGS", format!("{SETTINGS}port = {port}\n{settings}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // Ctrl-C in a terminal is for the tests; the keeper ends after them.
        command.process_group(0);
        let mut keeper = command.spawn().expect("a shell to keep the server");
        let (pipe, stdout) = (keeper.stdin.take(), keeper.stdout.take());
        let mut ready = String::new();
        BufReader::new(stdout.expect("a pipe")).read_line(&mut ready).expect("the keeper's answer");
        if ready != "ready\n" {
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            std::fs::remove_dir_all(&folder).ok();
            panic!("a temporary Postgres server with the programs in {} failed:\n{log}", programs.display());
        }
        Self { folder, programs, user, port, keeper, pipe }
    }

    /// The URL of one of its databases, for its superuser.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", database)
    }

    /// The URL of one of its databases, for `login`: a role, or `role:password`.
    #[must_use]
    pub fn url_as(&self, login: &str, database: &str) -> String {
        format!("postgres://{login}@localhost:{}/{database}?host={}", self.port, self.folder.display())
    }

    /// Whose files are the server's, if not this process's own user: user and group.
    #[must_use]
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.user.map(|User { uid, gid }| (uid, gid))
    }

    /// Stops the server as `pg_ctl stop --mode=MODE` does (`smart`, `fast` or `immediate`).
    ///
    /// # Panics
    /// When it does not stop.
    pub fn stop(&self, mode: &str) {
        self.control(&["stop", "--mode", mode]);
    }

    /// Starts it again.
    ///
    /// # Panics
    /// When it does not start.
    pub fn resume(&self) {
        self.control(&["start", "--log", "log"]);
    }

    /// Runs pg_ctl.
    fn control(&self, arguments: &[&str]) {
        let mut command = as_user(&self.programs, &self.folder, self.user, self.programs.join("pg_ctl"));
        command.args(["--pgdata", "data", "--wait", "--silent"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().expect("running pg_ctl");
        let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        assert!(status.success(), "pg_ctl {arguments:?}: {status}\n{}", log());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.pipe.take());
        self.keeper.wait().ok();
        // The keeper has emptied it, but may not be allowed to remove it from where it stands.
        std::fs::remove_dir(&self.folder).ok();
    }
}

/// A command in the server's folder, as its user, with as little environment as it needs.
fn as_user(programs: &Path, folder: &Path, user: Option<User>, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").current_dir(folder);
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
    command.env("PATH", format!("{}:{path}", programs.display()));
    if let Some(User { uid, gid }) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// The folder of Postgres' programs.
pub fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let configured = Command::new("pg_config").arg("--bindir").output().ok();
    let configured = configured.and_then(|output| String::from_utf8(output.stdout).ok());
    let mut installed: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    installed.sort();
    let candidates = std::env::split_paths(&path)
        .chain(configured.map(|path| path.trim().into()))
        .chain(installed.into_iter().rev());
    // What is found in PATH may be a link: the programs look for each other beside the real one.
    candidates
        .map(|folder| folder.join("initdb"))
        .find_map(|initdb| initdb.canonicalize().ok()?.parent().map(Path::to_owned))
        .filter(|folder| folder.join("pg_ctl").exists())
}

/// The user `postgres`, or else `nobody`.
fn unprivileged() -> User {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |wanted: &str| {
        let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let mut found = fields.filter(|fields| fields.len() > 3 && fields[0] == wanted);
        found.find_map(|fields| Some(User { uid: fields[2].parse().ok()?, gid: fields[3].parse().ok()? }))
    };
    find("postgres").or_else(|| find("nobody")).unwrap_or(User { uid: 65_534, gid: 65_534 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_was_dropped_is_gone_with_its_folder() {
        let cluster = Cluster::start();
        let folder = cluster.folder.clone();
        let pid = std::fs::read_to_string(folder.join("data/postmaster.pid")).unwrap();
        let state = PathBuf::from(format!("/proc/{}/status", pid.lines().next().unwrap()));
        // Where nobody reaps orphans (some containers), a process that is gone is shown as a zombie.
        let runs = || std::fs::read_to_string(&state).is_ok_and(|status| !status.contains("State:\tZ"));
        assert!(runs());
        drop(cluster);
        // It removes its pid file, which is what the keeper waits for, a moment before it ends.
        crate::wait_until("the server has ended", || !runs());
        assert!(!folder.exists());
    }
}
