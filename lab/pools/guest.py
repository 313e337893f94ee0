# SPDX-License-Identifier: LGPL-2.1-only
"""The guest of a VM that runs in the lab, as a test sees it."""

from lab.guest import control, record

CHECK = 300.0
"""Seconds that a full check of a guest may take."""
ANSWER = 30.0
"""Seconds that any other answer of it may take."""


class Guest:
    """The guest of a running VM, by its control socket."""

    def __init__(self, path):
        self._path = path

    def status(self, reset=False):
        """Its counters; with `reset` the longest write is measured anew."""
        return control.ask(self._path, "status", ANSWER, reset=reset)[0]

    def records(self):
        """What was acknowledged so far: {device: lab.guest.record.Record.pack()}. It outlives the
        guest, unlike its memory."""
        return record.load(control.ask(self._path, "records", ANSWER)[1])

    def check(self):
        """Have it read everything that was ever acknowledged; {"missing", "seconds", "disks"}."""
        return control.ask(self._path, "check", CHECK)[0]
