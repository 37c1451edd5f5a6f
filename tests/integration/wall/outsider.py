"""A process of the user's outside of the session: it holds a secret in its environment, memory, shared memory, message queue and descriptors, and
serves two sockets and a name."""
import atexit
import ctypes
import os
import socket
import sys
import threading

root = os.environ["R"]
os.chdir(os.environ["HOME"])
# Found by its number, as long as this process is there.
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
segment = libc.shmget(0, 4096, 0o600)
ctypes.memmove(libc.shmat(segment, None, 0), b"CANARY", 6)
libc.shmctl(segment, 0, None)
name = f"sentrely-wall-{os.getpid()}"
with open(f"/dev/shm/{name}", "w") as file:
    file.write("CANARY")
libc.mq_open(f"/{name}".encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
queue = libc.mq_open(f"/{name}".encode(), os.O_RDWR)
libc.mq_send(queue, b"CANARY", 6, 0)
# Both outlive a process that is killed: it ends by itself when nobody holds its input any more.
atexit.register(os.unlink, f"/dev/shm/{name}")
atexit.register(libc.mq_unlink, f"/{name}".encode())
secret = open(os.path.expanduser("~/.aws/credentials"))


def serve(name):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name)
    listener.listen()
    while True:
        listener.accept()[0].sendall(b"CANARY")


for path in ("ssh-x/agent.7", "emacs/server"):
    os.makedirs(os.path.dirname(f"{root}/tmp/{path}"), exist_ok=True)
for address in (f"{root}/tmp/ssh-x/agent.7", f"{root}/tmp/emacs/server", "\0" + root):
    threading.Thread(target=serve, args=(address,), daemon=True).start()
while not (os.path.exists(f"{root}/tmp/ssh-x/agent.7") and os.path.exists(f"{root}/tmp/emacs/server")):
    pass
print("ready", flush=True)
sys.stdin.read()
