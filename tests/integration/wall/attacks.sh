# The attacks on the wall. A row is `## name | who | sign`, then what is run inside by bash.
# who: both, user, root. sign: `says` (it prints CANARY), `file PATH` (PATH below $R holds PWNED outside), `dead` ($VICTIM is gone).
# $R is the world's directory, $P the checkout, $SUP the supervisor, $OUT an outside process of the same user, $VICTIM one to be killed.

## read aws credentials | both | says
cat ~/.aws/credentials
## read an ssh key | both | says
cat ~/.ssh/id_ed25519
## read git's credential store | both | says
cat ~/.git-credentials
## read gh's login | both | says
cat ~/.config/gh/hosts.yml
## read npm's token | both | says
cat ~/.npmrc
## read a netrc | both | says
cat ~/.netrc
## read docker's login | both | says
cat ~/.docker/config.json
## read a gpg key | both | says
cat ~/.gnupg/private-keys-v1.d/k.key
## read what a symbolic link in the home leads to | both | says
cat $R/elsewhere/kube/config
## read a secret through its own root in proc | both | says
cat /proc/self/root$HOME/.aws/credentials
## read a secret through the supervisor's root | both | says
cat /proc/$SUP/root$HOME/.aws/credentials
## read a secret through another process's root | both | says
cat /proc/$OUT/root$HOME/.aws/credentials
## read a secret through another process's working directory | both | says
cat /proc/$OUT/cwd/.aws/credentials
## read a secret through another process's descriptors | both | says
for fd in /proc/$OUT/fd/*; do timeout 1 head -c 100 $fd; done
## read the shared memory of another program | both | says
python3 -c '
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
for line in list(open("/proc/sysvipc/shm"))[1:]:
    at = libc.shmat(int(line.split()[1]), None, 0o10000)
    if at not in (None, 2**64 - 1): print(ctypes.string_at(at, 6))
'
## read the shared memory of another program by its file | both | says
cat /dev/shm/sentrely-wall-$OUT
## read the message queue of another program by its file | both | says
python3 -c '
import ctypes, os
queue = os.open(os.environ["R"] + "/queues/sentrely-wall-" + os.environ["OUT"], os.O_RDONLY)
buffer = ctypes.create_string_buffer(1 << 16)
ctypes.CDLL(None).mq_receive(queue, buffer, len(buffer), None)
print(buffer.value)'
## hard-link a secret | both | says
ln ~/.aws/credentials ~/linked; cat ~/linked
## rename a directory of secrets | both | says
mv ~/.aws ~/aws2 && cat ~/aws2/credentials; mv ~/aws2 ~/.aws
## rename the home itself | both | says
mv $HOME $R/tmp/h2 && cat $R/tmp/h2/.aws/credentials; mv $R/tmp/h2 $HOME
## a secret under the name of another mount | root | says
cat $R/alias/.aws/credentials
## write under the name of another mount | root | file home/.zlogout
echo PWNED > $R/alias/.zlogout
## read the supervisor's environment | both | says
tr '\0' '\n' < /proc/$SUP/environ | sed s/sk-ant-canary/CANARY/
## read another process's environment | both | says
tr '\0' '\n' < /proc/$OUT/environ
## read another process's memory | both | says
python3 - <<'PY'
import os
pid = os.environ['OUT']
area = next(line for line in open(f'/proc/{pid}/maps') if '[stack]' in line).split()[0]
start, end = (int(part, 16) for part in area.split('-'))
memory = open(f'/proc/{pid}/mem', 'rb', 0)
memory.seek(start)
print('CANARY' if b'CANARY' in memory.read(end - start) else 'nothing')
PY
## attach to another process | both | says
python3 -c "
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print('CANARY' if libc.ptrace(0x4206, int(os.environ['OUT']), 0, 0) == 0 else 'refused')"
## take off the mask | both | says
umount ~/.aws; umount -l ~/.aws; cat ~/.aws/credentials
## take off the home | both | says
umount -l $HOME; cat ~/.aws/credentials
## take off the mask in a namespace of its own | both | says
unshare -Urm sh -c 'umount ~/.aws; umount -l ~/.aws; cat ~/.aws/credentials'
## take off the mask in a mount namespace alone | root | says
unshare -m sh -c 'umount -l ~/.aws; cat ~/.aws/credentials'
## bind the home elsewhere in a namespace of its own | both | says
mkdir -p $R/tmp/m; unshare -Urm sh -c 'mount --rbind $HOME $R/tmp/m && cat $R/tmp/m/.aws/credentials'
## bind the parent of the home elsewhere | both | says
mkdir -p $R/tmp/m; unshare -Urm sh -c 'mount --rbind $R $R/tmp/m && cat $R/tmp/m/home/.aws/credentials'
## lay the home below another overlay | both | says
mkdir -p $R/tmp/{m,u,w}; unshare -Urm sh -c 'mount -t overlay -o lowerdir=$HOME,upperdir=$R/tmp/u,workdir=$R/tmp/w,userxattr o $R/tmp/m && cat $R/tmp/m/.aws/credentials'
## enter the namespaces of the outside | both | says
nsenter -t $OUT -m cat $HOME/.aws/credentials; nsenter -t $OUT -U -m --preserve-credentials cat $HOME/.aws/credentials
## enter the namespaces of the supervisor | both | says
nsenter -t $SUP -m cat $HOME/.aws/credentials; nsenter -t $SUP -U -m --preserve-credentials cat $HOME/.aws/credentials
## leave by a second chroot | root | says
python3 -c "
import os
os.makedirs(os.environ['R'] + '/tmp/c', exist_ok=True)
os.chdir('/'); os.chroot(os.environ['R'] + '/tmp/c')
for _ in range(40): os.chdir('..')
os.chroot('.')
print(open(os.environ['HOME'] + '/.aws/credentials').read())"
## read another session's files | both | says
cat $SENTRELY_STATE_DIR/sessions/other/claude-settings.json
## read the repository that collects the session's work | both | says
head -c 1 $SENTRELY_STATE_DIR/sessions/$SENTRELY_RUN_ID/git/collect.git/HEAD && echo CANARY
## reach the control socket | both | says
python3 -c "
import os, socket
s = socket.socket(socket.AF_UNIX); s.connect(os.environ['SENTRELY_STATE_DIR'] + '/sessions/' + os.environ['SENTRELY_RUN_ID'] + '/control.sock'); print('CANARY')"
## read a token in the checkout's git configuration | both | says
cat $P/.git/config
## reach the ssh agent by its path | both | says
python3 -c "
import os, socket
s = socket.socket(socket.AF_UNIX); s.connect(os.environ['R'] + '/tmp/ssh-x/agent.7'); print(s.recv(99))"
## reach an editor's server by its path | both | says
python3 -c "
import os, socket
s = socket.socket(socket.AF_UNIX); s.connect(os.environ['R'] + '/tmp/emacs/server'); print(s.recv(99))"
## reach an abstract socket | both | says
python3 -c "
import os, socket
s = socket.socket(socket.AF_UNIX); s.connect('\0' + os.environ['R']); print(s.recv(99))"
## find a key in the session keyring | both | says
python3 -c "
import ctypes, os
libc = ctypes.CDLL(None)
libc.syscall.restype = ctypes.c_long
key = libc.syscall(250, 10, -3, b'user', b'sentrely-wall', 0)
buffer = ctypes.create_string_buffer(99)
print(buffer.value if libc.syscall(250, 11, key, buffer, 99) < 0 else buffer.value)"

## new .bash_profile | both | file home/.bash_profile
echo PWNED > ~/.bash_profile
## new .profile | both | file home/.profile
echo PWNED > ~/.profile
## new .zshenv | both | file home/.zshenv
echo PWNED > ~/.zshenv
## change .bashrc | both | file home/.bashrc
echo PWNED >> ~/.bashrc
## new git configuration | both | file home/.config/git/config
mkdir -p ~/.config/git; echo PWNED > ~/.config/git/config
## hooks by git's global configuration | both | file home/.gitconfig
git config --global core.hooksPath /PWNED
## new fish configuration | both | file home/.config/fish/config.fish
mkdir -p ~/.config/fish; echo PWNED > ~/.config/fish/config.fish
## new autostart entry | both | file home/.config/autostart/x.desktop
mkdir -p ~/.config/autostart; echo PWNED > ~/.config/autostart/x.desktop
## new systemd user unit | both | file home/.config/systemd/user/x.service
mkdir -p ~/.config/systemd/user; echo PWNED > ~/.config/systemd/user/x.service
## new cargo configuration | both | file home/.cargo/config.toml
mkdir -p ~/.cargo; echo PWNED > ~/.cargo/config.toml
## new pip configuration | both | file home/.config/pip/pip.conf
mkdir -p ~/.config/pip; echo PWNED > ~/.config/pip/pip.conf
## new program in the path | both | file home/.local/bin/git
mkdir -p ~/.local/bin; echo PWNED > ~/.local/bin/git
## new authorized key | both | file home/.ssh/authorized_keys
echo PWNED > ~/.ssh/authorized_keys
## new ssh configuration | both | file home/.ssh/config
echo PWNED > ~/.ssh/config
## new agent of Claude Code's | both | file home/.claude/agents/x.md
mkdir -p ~/.claude/agents; echo PWNED > ~/.claude/agents/x.md
## new command of Claude Code's | both | file home/.claude/commands/x.md
mkdir -p ~/.claude/commands; echo PWNED > ~/.claude/commands/x.md
## new instructions for Claude Code | both | file home/.claude/CLAUDE.md
echo PWNED > ~/.claude/CLAUDE.md
## hooks in Claude Code's settings | both | file home/.claude/settings.json
echo PWNED > ~/.claude/settings.json
## servers in Claude Code's state | both | file home/.claude.json
echo '{"mcpServers":{"x":{"command":"PWNED"}}}' > ~/.claude.json
## new plugin of Claude Code's | both | file home/.claude/plugins/x/hooks.json
mkdir -p ~/.claude/plugins/x; echo PWNED > ~/.claude/plugins/x/hooks.json

## write into the checkout | both | file project/planted
echo PWNED > $P/planted
## plant a hook in the checkout | both | file project/.git/hooks/post-checkout
echo PWNED > $P/.git/hooks/post-checkout
## write a branch of the checkout | both | file project/.git/refs/heads/planted
echo PWNED > $P/.git/refs/heads/planted
## configure the checkout | both | file project/.git/config
git -C $P config core.fsmonitor PWNED
## write through a hard link to the checkout | both | file project/README.md
ln $P/README.md linked && echo PWNED > linked
## write through another process's working directory | both | file home/by-cwd
echo PWNED > /proc/$OUT/cwd/by-cwd
## remount the checkout | both | file project/remounted
mount -o remount,bind,rw $P; echo PWNED > $P/remounted
## remount the checkout in a namespace of its own | both | file project/remounted2
unshare -Urm sh -c 'mount -o remount,bind,rw $P; echo PWNED > $P/remounted2'
## rename the checkout and put another in its place | both | file project/replaced
mv $P $R/moved && mkdir $P && echo PWNED > $P/replaced && mv $P/replaced $R/moved/ && rmdir $P && mv $R/moved $P
## write into the journal | both | file state/sessions/ID/journal.jsonl
echo PWNED >> $SENTRELY_STATE_DIR/sessions/$SENTRELY_RUN_ID/journal.jsonl
## plant a file in the own session's directory | both | file state/sessions/ID/planted
echo PWNED > $SENTRELY_STATE_DIR/sessions/$SENTRELY_RUN_ID/planted
## write another session's files | both | file state/sessions/other/claude-settings.json
echo PWNED >> $SENTRELY_STATE_DIR/sessions/other/claude-settings.json
## write into the state directory | both | file state/planted
echo PWNED > $SENTRELY_STATE_DIR/planted
## write into the layers | both | file layers/planted
echo PWNED > $R/layers/planted

## signal the supervisor | both | says
kill -0 $SUP && echo CANARY
## kill another process | both | dead
kill -9 $VICTIM
## limit the supervisor's resources | both | says
prlimit --pid $SUP --core=0:0 && echo CANARY
## limit another process's resources | both | says
prlimit --pid $OUT --core=0:0 && echo CANARY
## type into the terminal | both | says
python3 -c "
import fcntl, os, pty
pid, fd = pty.fork()
if pid == 0:
    try:
        fcntl.ioctl(0, 0x5412, b'x'); os._exit(0)
    except OSError: os._exit(1)
print('CANARY' if os.waitpid(pid, 0)[1] == 0 else 'refused')"
## type into the terminal with a longer number | both | says
python3 -c "
import ctypes, os, pty
libc = ctypes.CDLL(None)
pid, fd = pty.fork()
if pid == 0: os._exit(0 if libc.syscall(16, 0, ctypes.c_ulong(0x5412 | 1 << 32), b'x') == 0 else 1)
print('CANARY' if os.waitpid(pid, 0)[1] == 0 else 'refused')"
## command the console | both | says
python3 -c "
import ctypes, errno, os, pty
libc = ctypes.CDLL(None, use_errno=True)
pid, fd = pty.fork()
if pid == 0:
    # An answer of the terminal's own, not of a filter in front of it.
    os._exit(0 if libc.ioctl(0, 0x541c, b'\x06') >= 0 or ctypes.get_errno() in (errno.ENOTTY, errno.EINVAL) else 1)
print('CANARY' if os.waitpid(pid, 0)[1] == 0 else 'refused')"
## write the kernel's settings | root | says
cp /proc/sys/kernel/core_pattern $R/tmp/core && cat $R/tmp/core > /proc/sys/kernel/core_pattern && echo CANARY
## pull the kernel's lever | root | says
echo h > /proc/sysrq-trigger && echo CANARY
## make a control group | root | says
dir=$(find /sys/fs/cgroup -maxdepth 2 -name cgroup.procs -printf '%h\n' | sort | tail -1); mkdir $dir/sentrely-wall && rmdir $dir/sentrely-wall && echo CANARY
## read the disk | root | says
disk=$(awk '$5 == "/" { print $(NF-1) }' /proc/self/mountinfo | head -1); head -c 512 $disk | wc -c | grep -q 512 && echo CANARY
## make a device and read the disk | root | says
set -- $(awk '$5 == "/" { print $3 }' /proc/self/mountinfo | head -1 | tr : ' '); mknod $R/tmp/disk b $1 $2; head -c 512 $R/tmp/disk | wc -c | grep -q 512 && echo CANARY
## read the machine's memory | root | says
head -c 1 /dev/mem | wc -c | grep -q 1 && echo CANARY
## name the machine | root | says
hostname "$(hostname)" && echo CANARY
## slow the supervisor down | both | says
renice -n 1 -p $SUP && echo CANARY
## offer the supervisor to the memory killer | both | says
echo 1 > /proc/$SUP/oom_score_adj && echo CANARY
