//! What people do every day, inside as outside: each line of a script says `ok` or what failed. A line that fails without the wall as well (no such
//! program) is not held against it, but where every component is required (CI) it fails the test: nothing is forgiven there.

#![expect(clippy::print_stdout, reason = "what the machine has not is told in the test's output")]

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::support::components::{SSHD, find_program};
use crate::support::run::wait_until;

/// `name | command`, run by bash in the working copy.
const EVERYDAY: &str = r#"
new files and directories in the home | mkdir -p ~/.newtool/data && echo x > ~/.newtool/data/f && mv ~/.newtool/data/f ~/.newtool/g && cat ~/.newtool/g
replace a file of the home by renaming | echo '{}' > ~/.claude.json.tmp && mv ~/.claude.json.tmp ~/.claude.json
change the shell's start-up file | echo 'alias x=y' >> ~/.bashrc && bash -ic true
a file in /tmp | echo x > "$TMPDIR/x" && rm "$TMPDIR/x"
git commit | echo 1 > one && git add one && git commit -qm one && git log --oneline -1
git tag, branch and rebase | git tag t && git checkout -qb side && echo 2 > two && git add two && git commit -qm two && git rebase -q HEAD~1 && git checkout -q - && git branch -qD side
git gc | git gc -q && git fsck --no-progress
git stash | echo 3 >> one && git stash -q && git stash pop -q
git worktree | git worktree add -q "$TMPDIR/tree" && git worktree remove --force "$TMPDIR/tree"
git bisect | git bisect start HEAD HEAD~1 && git bisect reset
git configuration of one's own | git config --global alias.st status && git st -s
git looks at the checkout | git -C "$P" log --oneline -1 && git -C "$P" status -s
a virtual environment of python's | python3 -m venv --without-pip ~/venv && ~/venv/bin/python -c 'print(1)'
pip installs a wheel | python3 -m venv ~/venv2 && cd "$TMPDIR" && python3 -c "
import zipfile
with zipfile.ZipFile('dep-1.0-py3-none-any.whl', 'w') as wheel:
    wheel.writestr('dep.py', '')
    wheel.writestr('dep-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\nName: dep\nVersion: 1.0\n')
    wheel.writestr('dep-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
    wheel.writestr('dep-1.0.dist-info/RECORD', '')" && ~/venv2/bin/pip install -q --no-index --disable-pip-version-check ./dep-1.0-py3-none-any.whl && ~/venv2/bin/python -c 'import dep'
cargo builds a program | test -z "$CARGO_BIN" || { export PATH="$CARGO_BIN:$PATH"; cargo init -q --name hello --vcs none hello && cd hello && cargo build -q --offline && ./target/debug/hello; }
ssh and a server of the outside | echo pwd | sftp -q -b - -i "$R/sshd/key" -P "$SSH_PORT" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "$(id -un)@127.0.0.1"
npm installs a package of a folder | mkdir -p "$TMPDIR/dep" n && echo '{"name":"dep","version":"1.0.0"}' > "$TMPDIR/dep/package.json" && cd n && echo '{}' > package.json && npm install --offline --no-audit --no-fund "$TMPDIR/dep"
npm installs a program for the user | mkdir -p "$TMPDIR/tool" && echo '{"name":"tool","version":"1.0.0","bin":"t.js"}' > "$TMPDIR/tool/package.json" && echo '#!/usr/bin/env node' > "$TMPDIR/tool/t.js" && npm install -g --prefix ~/.local --offline --no-audit --no-fund "$TMPDIR/tool"
a C program | printf 'int main(void){return 0;}' > "$TMPDIR/c.c" && cc -o ~/c "$TMPDIR/c.c" && ~/c
strace of an own child | strace -o "$TMPDIR/trace" true
a debugger's attach to an own child | sleep 9 & p=$!; timeout 5 strace -p $p -o "$TMPDIR/t2" & sleep 0.3; kill $p; wait
a pipe, a fifo and a socket | mkfifo "$TMPDIR/fifo" && (echo x > "$TMPDIR/fifo" &) && cat "$TMPDIR/fifo"
shared memory and locks by their names | python3 -c "
from multiprocessing import Lock, Process, shared_memory
memory = shared_memory.SharedMemory(create=True, size=9); lock = Lock()
def work():
    with lock:
        other = shared_memory.SharedMemory(memory.name); other.buf[0] = 7; other.close()
child = Process(target=work); child.start(); child.join(); assert memory.buf[0] == 7; memory.unlink()"
a local server | python3 -c "import socket; s=socket.socket(); s.bind(('127.0.0.1',0)); s.listen(); c=socket.create_connection(s.getsockname()); s.accept()"
a pseudo terminal | script -qec 'tty' /dev/null
ssh reads its configuration | ssh -G localhost
limits of one's own | ulimit -n 256
a namespace of one's own | unshare -Ur true
a mount namespace of one's own | unshare -Urm sh -c 'mount -t tmpfs t /mnt && touch /mnt/x'
bubblewrap | bwrap --ro-bind / / --dev /dev --tmpfs /tmp --unshare-pid true
inotify | python3 -c "
import ctypes, os
libc = ctypes.CDLL(None); fd = libc.inotify_init(); assert libc.inotify_add_watch(fd, os.path.expanduser('~').encode(), 0x100) > 0
open(os.path.expanduser('~/watched'), 'w').close(); assert os.read(fd, 100)"
change an owner, as root may | test "$(id -u)" != 0 || { touch o && chown 12345:12345 o && setpriv --reuid 12345 --clear-groups true; }
unpack with owners, as root may | test "$(id -u)" != 0 || { tar cf "$TMPDIR/a.tar" one && tar xf "$TMPDIR/a.tar" --same-owner; }
remove and make a directory of the home | mkdir -p ~/.config/x && rm -r ~/.config/x && mkdir ~/.config/x
"#;

fn rows() -> Vec<(&'static str, &'static str)> {
    let mut rows: Vec<(&str, &str)> = Vec::new();
    let mut rest = EVERYDAY.trim_start();
    // A row may have several lines: the next one begins where a line holds the bar.
    while let Some((name, after)) = rest.split_once(" | ") {
        let end =
            after.match_indices('\n').find(|(at, _)| after[at + 1..].lines().next().is_none_or(|line| line.contains(" | "))).unwrap().0;
        rows.push((name.trim(), &after[..end]));
        rest = &after[end + 1..];
    }
    rows
}

/// A real sshd that lets this user's key in, to its files only: the user may have no shell.
fn ssh_server(world: &World) -> (Outside, u16) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dir = world.env.root().join("sshd");
    fs::create_dir(&dir).unwrap();
    for name in ["host", "key"] {
        let done = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(name)).status().unwrap();
        assert!(done.success());
    }
    let dir = dir.display();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir}/host\nPidFile none\nAuthorizedKeysFile {dir}/key.pub\nStrictModes no\nUsePAM no\n\
         PasswordAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\nForceCommand internal-sftp\n"
    );
    write(&world.env.root().join("sshd/config"), &config);
    world.give_away();
    // Root's wants a directory that only a system with services has.
    let script = "test \"$(id -u)\" != 0 || { mount -t tmpfs t /run && mkdir /run/sshd; }; exec \"$@\"";
    let sshd = find_program("sshd").unwrap().display().to_string();
    let config = world.env.root().join("sshd/config").display().to_string();
    let own_mounts: &[&str] = if world.who == Who::Root { &["unshare", "-m"] } else { &[] };
    let server = Outside::start(world, &[own_mounts, &["sh", "-c", script, "sh", &sshd, "-D", "-e", "-f", &config]].concat());
    wait_until(Duration::from_secs(30), "the ssh server", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    (server, port)
}

/// The toolchain's programs, where the session's user may run them: root's home is root's alone.
fn cargo_bin(world: &World) -> String {
    let dir = Path::new(env!("CARGO")).parent().unwrap();
    if world.changes_user() { String::new() } else { dir.display().to_string() }
}

/// What fails, with what it said.
fn failing(who: Who, wall: &str) -> Vec<(String, String)> {
    let world = World::new(who);
    let dir = world.env.root().join("everyday");
    for (n, (_, command)) in rows().iter().enumerate() {
        write(&dir.join(format!("{n:03}.sh")), command);
    }
    let all = "for row in $R/everyday/*.sh; do echo \"=== $row\"; (timeout -k 1 60 bash -e $row </dev/null 2>&1) && echo OK; done; true\n";
    write(&dir.join("all"), all);
    world.give_away();
    let (_server, ssh_port) = ssh_server(&world);
    let script = dir.join("all").display().to_string();
    let output = world
        .run(&["--wall", wall], &["bash", &script])
        .var("R", world.env.root())
        .var("P", world.env.project())
        .var("SSH_PORT", ssh_port.to_string())
        .var("CARGO_BIN", cargo_bin(&world))
        .var("npm_config_cache", world.env.home().join(".npm"))
        .run()
        .success();
    let said: Vec<&str> = output.stdout.split("=== ").skip(1).collect();
    assert_eq!(said.len(), rows().len(), "{}", output.stdout);
    let failed = rows().into_iter().zip(said).filter(|(_, said)| !said.trim_end().ends_with("OK"));
    failed.map(|((name, _), said)| (name.to_owned(), said.to_owned())).collect()
}

fn the_day_goes_on(who: Who) {
    if !full_wall(who) {
        return;
    }
    crate::needs!(SSHD);
    let outside: BTreeSet<String> = failing(who, "off").into_iter().map(|(name, _)| name).collect();
    let inside: Vec<(String, String)> = failing(who, "require").into_iter().filter(|(name, _)| !outside.contains(name)).collect();
    for name in &outside {
        println!("fails here without the wall too: {name}");
    }
    assert_eq!(inside, [], "fails behind the wall only");
    let all_required = std::env::var_os("SENTRELY_TEST_COMPONENTS").is_some_and(|wanted| wanted == "require");
    assert!(!all_required || outside.is_empty(), "fails without the wall too, so nothing is known of it: {outside:?}");
}

#[test]
fn what_root_does_every_day_works_behind_the_wall() {
    the_day_goes_on(Who::Root);
}

#[test]
fn what_an_ordinary_user_does_every_day_works_behind_the_wall() {
    the_day_goes_on(Who::User);
}
