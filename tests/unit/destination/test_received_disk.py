# SPDX-License-Identifier: LGPL-2.1-only
"""What the log says of the control of a disk: how it has ended, and a code only where something
went wrong."""

import logging
from unittest import mock

import pytest

from storage_motion.destination.received_disk import ReceivedDisk
from storage_motion.errors import ConnectionLost, ProtocolError

SPEC = {"vdi": "v", "sr": "s", "size": 1, "socket": "/x", "depth": 1, "blank": True}
LOST = ConnectionLost("the peer closed the connection")


class Lines(object):
    """The mover's: what it asks for, and then what the connection ends with."""

    def __init__(self, end, *asked):
        self.asked, self._end = [{"cmd": command} for command in asked], end
        self.answers = []

    def receive(self, _):
        if not self.asked:
            raise self._end
        return self.asked.pop(0)

    def send(self, message, _):
        self.answers.append(message)


def control(caplog, end, *asked):
    """(The disk, what the log says of its control's end)."""
    disk = ReceivedDisk("k", SPEC, mock.Mock())
    disk.roles.update(mirror="ended", copy="ended", control="open")
    with caplog.at_level(logging.INFO):
        disk.control(Lines(end, *asked), lambda: None)
    return disk, [text for text in caplog.messages if "control" in text]


def test_a_normal_end_is_told_without_a_code(caplog):
    """The gate is open: the mover has no more to say, and closes."""
    disk, told = control(caplog, LOST, "heartbeat", "finish")
    assert disk.gate == "open" and disk.roles["control"] == "ended"
    assert told == ["disk k: control has ended"]
    assert "SXM_" not in caplog.text


def test_an_end_with_the_gate_shut_is_told_with_what_it_was(caplog):
    disk, told = control(caplog, LOST, "heartbeat")
    assert disk.gate == "shut" and disk.roles["control"] == "broken"
    assert told == [
        "disk k: control has ended with the gate shut: SXM_CONNECTION_LOST: "
        "the peer closed the connection",
        "disk k: control has broken",
    ]


@pytest.mark.parametrize("asked", [(), ("finish",)])
def test_what_is_no_end_is_always_told(caplog, asked):
    disk, told = control(caplog, ProtocolError("no JSON"), *asked)
    assert told[0] == "disk k: control has ended: SXM_PROTOCOL: no JSON"


def test_a_disk_that_is_given_up_says_why_and_is_never_finished(caplog):
    asked = [{"cmd": "abort", "error": "the migration\n is cancelled"}, {"cmd": "finish"}]
    disk = ReceivedDisk("k", SPEC, mock.Mock())
    disk.roles.update(mirror="ended", copy="ended", control="open")
    lines = Lines(LOST)
    lines.asked = asked
    with caplog.at_level(logging.INFO):
        disk.control(lines, lambda: None)
    given_up, refused = lines.answers
    assert given_up == {"ok": True} and refused["ok"] is False and disk.gate == "shut"
    assert "the source has given it up: the migration is cancelled" in refused["error"]
    assert disk.roles["control"] == "broken"
    assert caplog.messages[0] == "disk k: the source gives it up: the migration is cancelled"
    assert caplog.messages[-1] == "disk k: control has been given up"
    assert "SXM_CONNECTION_LOST" not in caplog.text
