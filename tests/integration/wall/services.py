"""Servers of the outside, each of which says CANARY, and a registry; writes their ports down."""
import functools
import http.server
import os
import socket
import sys
import threading

root = os.environ["R"]


def serve(family, address):
    listener = socket.socket(family)
    listener.bind(address)
    listener.listen()

    def answer():
        while True:
            peer = listener.accept()[0]
            peer.settimeout(5)
            try:
                peer.recv(999)
                peer.sendall(b"HTTP/1.0 200 OK\r\n\r\nCANARY")
                peer.shutdown(socket.SHUT_WR)
                # Closed with something unread it would be reset.
                while peer.recv(999):
                    pass
            except OSError:
                pass
            peer.close()

    threading.Thread(target=answer, daemon=True).start()
    return listener.getsockname()


def echo():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("127.0.0.1", 0))

    def answer():
        while True:
            s.sendto(b"CANARY", s.recvfrom(99)[1])

    threading.Thread(target=answer, daemon=True).start()
    return s.getsockname()


serve(socket.AF_UNIX, "\0net" + root)
files = functools.partial(http.server.SimpleHTTPRequestHandler, directory=root + "/registry")
registry = http.server.ThreadingHTTPServer(("127.0.0.1", 0), files)
threading.Thread(target=registry.serve_forever, daemon=True).start()
tcp, udp, six = serve(socket.AF_INET, ("127.0.0.1", 0)), echo(), serve(socket.AF_INET6, ("::1", 0))
print(tcp[1], udp[1], six[1], registry.server_port, flush=True)
sys.stdin.read()
