"""Processes that are hard to end. Usage: zoo.py DIR ANIMAL...

Each animal beats: it appends a byte to DIR/beat/ANIMAL every few milliseconds, for as long as anything of it lives. DIR stands in the
command line of every process, so that a test finds them all. Nothing lives longer than three minutes, and nothing multiplies.
"""
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

DIR, ANIMALS = sys.argv[1], sys.argv[2:]
LIBC = ctypes.CDLL(None, use_errno=True)
END = time.monotonic() + 180
CLONE_NEWPID, CLONE_NEWUSER, PR_SET_CHILD_SUBREAPER = 0x20000000, 0x10000000, 36


def beat_once(name):
    file = os.open(f"{DIR}/beat/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(file, b".")
    os.close(file)


def beat(name):
    while time.monotonic() < END:
        beat_once(name)
        time.sleep(0.005)
    os._exit(0)


def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def plain():
    beat("plain")


def pgrp():
    os.setpgid(0, 0)
    beat("pgrp")


def setsid():
    os.setsid()
    beat("setsid")


def daemon():
    os.setsid()
    child(lambda: beat("daemon"))


def nohup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.setsid()
    child(lambda: beat("nohup"))


def ignoreall():
    os.setsid()
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    beat("ignoreall")


def envclear():
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, __file__, DIR, "BEAT", "envclear"], {})


def stopped():
    os.setsid()
    beat_once("stopped")
    os.kill(os.getpid(), signal.SIGSTOP)
    beat("stopped")


def generations(name):
    """Each lives for a moment only, and its successor is in a session of its own."""
    while time.monotonic() < END:
        if os.fork() != 0:
            os._exit(0)
        os.setsid()
        beat_once(name)
        time.sleep(0.002)


def chain():
    generations("chain")


def swarm():
    for _ in range(6):
        child(lambda: generations("swarm"))


def subreaper():
    os.setsid()
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def orphan():
        os.setsid()
        child(lambda: beat("subreaper"))

    child(orphan)
    while time.monotonic() < END:
        time.sleep(0.05)
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pass


def late():
    os.setsid()

    def answer(*_):
        def born():
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            beat("born-late")

        child(born)

    signal.signal(signal.SIGTERM, answer)
    beat("late")


def leaderless():
    # The main thread ends alone: the process shows as a zombie while its other thread runs.
    os.setsid()
    threading.Thread(target=beat, args=("leaderless",)).start()
    LIBC.syscall({"x86_64": 60}.get(os.uname().machine, 93), 0)


def newns():
    os.setsid()
    if LIBC.unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    child(lambda: beat("newns"))
    signal.pause()


def tmux():
    run = f"{sys.executable} {__file__} {DIR} BEAT tmux"
    subprocess.run(["tmux", "-f", "/dev/null", "-S", f"{DIR}/work/tmux.sock", "new-session", "-d", run], check=True)


def cgmove():
    os.setsid()
    with open(os.environ["ZOO_CGROUP"] + "/cgroup.procs", "w") as procs:
        procs.write("0")
    beat("cgmove")


def suid():
    # DIR/become is this interpreter, owned by root and setuid.
    os.setsid()
    os.execv(f"{DIR}/become", [f"{DIR}/become", __file__, DIR, "ROOT", "suid"])


if ANIMALS[0] == "BEAT":
    beat(ANIMALS[1])
if ANIMALS[0] == "ROOT":
    os.setuid(0)
    beat(ANIMALS[1])
for animal in ANIMALS:
    child(globals()[animal])
beat("agent")
