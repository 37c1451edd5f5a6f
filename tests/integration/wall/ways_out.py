"""Ways out of a network that is cut down to services: prints the name of each that reached a server of the outside."""
import os
import socket
import subprocess

tcp, udp, six = (int(os.environ[name]) for name in ("TCP", "UDP", "SIX"))


ASK = b"GET / HTTP/1.0\r\n\r\n"


def heard(family, kind, address, say=ASK):
    with socket.socket(family, kind) as s:
        s.settimeout(5)
        s.connect(address)
        s.send(say)
        return s.recv(99)


def through_filter(request):
    with socket.create_connection(("127.0.0.1", 3128), 5) as s:
        s.settimeout(10)
        s.sendall(request.encode())
        answer = s.recv(999)
        if b" 200 " not in answer:
            return b""
        if request.startswith("CONNECT"):
            s.sendall(ASK)
        while b"CANARY" not in answer and (more := s.recv(999)):
            answer += more
        return answer


def connect(target):
    return lambda: through_filter(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")


def with_proxy_variables_gone():
    env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return subprocess.run(["curl", "-s", "-m", "5", f"http://127.0.0.1:{tcp}/"], env=env, capture_output=True).stdout


def outsiders_network():
    command = ["nsenter", "-t", os.environ["OUT"], "-n", "curl", "-s", "-m", "5", f"http://127.0.0.1:{tcp}/"]
    return subprocess.run(command, capture_output=True).stdout


def vsock():
    socket.socket(40, socket.SOCK_STREAM).close()
    return b"CANARY"


ways = {
    "a port of this machine": lambda: heard(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", tcp)),
    "a datagram, as to a name server": lambda: heard(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", udp), b"?"),
    "IPv6": lambda: heard(socket.AF_INET6, socket.SOCK_STREAM, ("::1", six)),
    "an abstract socket": lambda: heard(socket.AF_UNIX, socket.SOCK_STREAM, "\0net" + os.environ["R"]),
    "a program without the proxy variables": with_proxy_variables_gone,
    "the network of another process": outsiders_network,
    "a socket to the host of a virtual machine": vsock,
    "filter: an address": connect(f"127.0.0.1:{tcp}"),
    "filter: an address in other clothes": connect(f"[::ffff:127.0.0.1]:{tcp}"),
    "filter: an IPv6 address": connect(f"[::1]:{six}"),
    "filter: a listed name that leads to this machine": connect(f"localhost:{tcp}"),
    "filter: an address behind a listed name": connect(f"registry.test@127.0.0.1:{tcp}"),
    "filter: plain HTTP": lambda: through_filter(f"GET http://127.0.0.1:{tcp}/ HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "filter: a port that is not listed": connect(f"registry.test:{tcp}"),
}
for name, way in ways.items():
    try:
        if b"CANARY" in way():
            print(name)
    except OSError:
        pass
