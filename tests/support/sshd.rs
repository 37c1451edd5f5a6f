//! A real sshd on loopback, for one key of a private home.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::components::find_program;
use super::run::wait_until;

/// Starts one that keeps its files in `dir`. It lets `<home>/.ssh/id_test` in, to what `options` (of its line in `authorized_keys`) allow;
/// `<home>/.ssh/config` leads there. The caller ends it.
pub(crate) fn serve(dir: &Path, home: &Path, port: u16, options: &str) -> Child {
    let own = home.join(".ssh");
    key(&dir.join("host"));
    key(&own.join("id_test"));
    let public = fs::read_to_string(own.join("id_test.pub")).unwrap();
    write(&dir.join("authorized"), &format!("{options} {public}"));
    let host = fs::read_to_string(dir.join("host.pub")).unwrap();
    write(&own.join("known"), &format!("[127.0.0.1]:{port} {host}"));
    let client = format!("Host *\n IdentityFile {0}/id_test\n IdentitiesOnly yes\n UserKnownHostsFile {0}/known\n", own.display());
    write(&own.join("config"), &client);
    let config = format!(
        "ListenAddress 127.0.0.1\nPort {port}\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\nStrictModes no\nUsePAM no\n\
         PermitRootLogin yes\nPasswordAuthentication no\nPidFile none\n",
        dir.display()
    );
    write(&dir.join("sshd"), &config);
    let _ = fs::create_dir_all("/run/sshd"); // only root needs it
    let mut command = Command::new(find_program("sshd").unwrap());
    command.args(["-D", "-e", "-f"]).arg(dir.join("sshd")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = command.spawn().unwrap();
    wait_until(Duration::from_mins(1), "the ssh server", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    server
}

fn key(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status().unwrap();
    assert!(made.success());
}

fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}
