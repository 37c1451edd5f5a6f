"""A full-screen program as far as a terminal sees it: raw mode, alternate screen, mouse; stops only itself on ^Z, as Claude Code
does, and does not set raw mode again afterwards."""
import os
import signal
import sys
import termios
import tty

saved = termios.tcgetattr(0)


def say(text):
    os.write(1, (text + "\r\n").encode())


def mode():
    return "COOKED" if termios.tcgetattr(0)[3] & termios.ICANON else "RAW"


ON = b"\x1b[?1049h\x1b[?1002h\x1b[?1006h\x1b[?2004h\x1b[?25l\x1b[>5u"
OFF = b"\x1b[?1049l\x1b[?1002l\x1b[?1006l\x1b[?2004l\x1b[?25h\x1b[<u"
tty.setraw(0)
os.write(1, ON)
say("TUI-READY pid=%d." % os.getpid())
while True:
    for byte in os.read(0, 1):
        if byte == 0x1A:
            os.write(1, OFF)
            os.kill(os.getpid(), signal.SIGSTOP)
            os.write(1, ON)
            say("TUI-CONTINUED mode=%s." % mode())
        elif byte == 0x03:
            say("TUI-INTERRUPT")
        elif byte == ord("q"):
            os.write(1, OFF)
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
            sys.exit(7)
        else:
            say("TUI-KEY %d." % byte)
