"""Runs a command with a key in its session keyring."""
import ctypes
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall(250, 1, None)
if libc.syscall(248, b"user", b"sentrely-wall", b"CANARY", 6, -3) < 0:
    sys.exit(f"no key: {os.strerror(ctypes.get_errno())}")
os.execvp(sys.argv[1], sys.argv[1:])
