# SPDX-License-Identifier: LGPL-2.1-only
"""What is made of a QEMU that answers otherwise than it should."""

import json
import socket
import threading

import pytest

from lab.blktap.qmp import Monitor, MonitorError

GREETING = {"QMP": {"version": {}, "capabilities": []}}
BOUND = 10.0  # seconds


def monitor(path, *messages):
    """Connect to a QEMU at `path` that says just these messages."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(1)

    def say():
        sock, _ = listener.accept()
        with listener, sock:
            for message in messages:
                sock.sendall(json.dumps(message).encode() + b"\n")
            sock.settimeout(BOUND)
            while sock.recv(4096):
                pass

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        Monitor(path, BOUND).close()
    finally:
        thread.join(BOUND)


def test_an_event_may_come_before_it_greets(tmp_path):
    monitor(str(tmp_path / "m"), {"event": "X"}, GREETING, {"event": "Y"}, {"return": {}})


@pytest.mark.parametrize("answer", [GREETING, {}, {"error": {"desc": "no"}}])
def test_what_is_no_answer_is_an_error_by_which_it_is_replaced(tmp_path, answer):
    with pytest.raises(MonitorError):
        monitor(str(tmp_path / "m"), GREETING, answer)
