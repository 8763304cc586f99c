"""Runs a command on a terminal of its own, and tells in JSON how it ended, what it wrote, and whether it left the terminal as it was.

    on_terminal.py COLUMNSxROWS EXPECTED ACTION COMMAND...

Once EXPECTED was written, ACTION is done: `type:TEXT`, `signal:NAME`, or nothing. The command then has to end by itself.
"""

import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl

DEADLINE = 60


def main(size, expected, action, *command):
    controller, terminal = pty.openpty()
    columns, rows = map(int, size.split("x"))
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    before = termios.tcgetattr(terminal)
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True)
    written, is_done, deadline = b"", False, time.monotonic() + DEADLINE
    try:
        while True:
            if not is_done and expected.encode() in written:
                act(action, controller, process)
                is_done = True
            # What is written before the end is there to be read after it.
            has_ended = process.poll() is not None
            if select.select([controller], [], [], 0 if has_ended else 0.05)[0]:
                written += os.read(controller, 65536)
            elif has_ended:
                break
            if time.monotonic() > deadline:
                sys.exit(f"it does not {'end' if is_done else 'write what was expected'}: {written!r}")
    finally:
        if process.poll() is None:
            process.kill()
    after = termios.tcgetattr(terminal)
    print(json.dumps({"code": process.returncode, "written": written.decode(), "is_restored": before == after}))


def act(action, controller, process):
    kind, _, what = action.partition(":")
    if kind == "type":
        os.write(controller, what.encode())
    elif kind == "signal":
        process.send_signal(signal.Signals[f"SIG{what}"])


main(*sys.argv[1:])
