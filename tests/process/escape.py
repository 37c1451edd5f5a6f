"""An agent that tries to leave processes behind. Usage: escape.py DIR STAY|LEAVE WAY...

Each process of it writes its number and start time into DIR once it has reached its hiding place, and then waits. The agent
itself writes DIR/ready when every way was taken; with STAY it then waits, with LEAVE it ends.
"""
import os
import signal
import sys
import threading
import time

DIR, STAY, WAYS = sys.argv[1], sys.argv[2] == "STAY", sys.argv[3:]


def start_time():
    with open("/proc/self/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[19]


def register(name):
    path = f"{DIR}/{name}.{os.getpid()}"
    with open(path + ".tmp", "w") as file:
        file.write(start_time())
    os.rename(path + ".tmp", path)


def hide(name):
    register(name)
    while True:
        time.sleep(60)


def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def plain():
    hide("plain")


def setsid():
    os.setsid()
    hide("setsid")


def daemon():
    os.setsid()
    child(lambda: hide("daemon"))


def nohup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    child(lambda: hide("nohup"))


def ignoreall():
    os.setsid()
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    hide("ignoreall")


def envclear():
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, __file__, DIR, "HIDE", "envclear"], {})


def stopped():
    os.setsid()
    register("stopped")
    os.kill(os.getpid(), signal.SIGSTOP)
    hide("stopped")


def respawner():
    # Each generation lives for a moment only; the cap keeps a failing test from being a nuisance.
    os.setsid()
    register("respawner")
    for _ in range(20000):
        if os.fork() != 0:
            os._exit(0)
        if os.fork() == 0:
            os._exit(0)
        time.sleep(0.0005)
    hide("respawner")


def late():
    os.setsid()

    def answer(*_):
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            hide("born-late")
    signal.signal(signal.SIGTERM, answer)
    hide("late")


def leaderless():
    # The main thread ends alone: the process shows as a zombie while its other thread runs.
    import ctypes
    os.setsid()
    threading.Thread(target=hide, args=("leaderless",)).start()
    number = {"x86_64": 60}.get(os.uname().machine, 93)
    ctypes.CDLL(None).syscall(number, 0)


if sys.argv[2] == "HIDE":
    hide(WAYS[0])
for way in WAYS:
    child(globals()[way])
hidden = set()
while not set(WAYS) <= hidden:
    hidden = {name.split(".")[0] for name in os.listdir(DIR) if not name.endswith(".tmp")}
    time.sleep(0.002)
register("agent")
open(f"{DIR}/ready", "w").close()
while STAY:
    time.sleep(60)
