# SPDX-License-Identifier: LGPL-2.1-only
"""The garbage collector of a host's SM (lab/sm/cleanup.py), run when a test says so, and what it
did."""

import contextlib
import os
import subprocess
import threading

from lab.dom0 import breakpoint
from tests.e2e.scene import MOVE

PROGRAM = "/opt/xensource/sm/cleanup.py"
BOUND = 300.0  # seconds for one run
IDLE = "No work, exiting"
RUNS = 5
ACTS = ("Coalescing ", "Leaf-coalescing ", "Deleting unlinked VDI ", "Remote coalesce for ")
"""How it logs what it does to images."""


class Collector:
    """That of the SR on which the scene's VM has its disks now. `may_give_up`: it may be told to
    give up a merge, and ends then."""

    def __init__(self, scene, may_give_up=False):
        self._may_give_up = may_give_up
        self._root = scene.host.root
        self._sr = scene.pool.xapi.SR.get_uuid(scene.pool.sr(scene.host.name, "fast"))

    def run(self):
        """Run it until it has nothing left to do; what it did, as it logs that. Fails if it did, or
        could not even look.

        SM's refresh lets go of the disk's lock between pause and unpause; if the product takes the
        mirror off just then, SM's unpause fails, and the collector skips that image until it is run
        again, as the real one does."""
        did = []
        for _ in range(RUNS):
            lines = self._run_once()
            did += [line for line in lines if line.startswith(ACTS)]
            if not any("skipping" in line for line in lines):
                return did
        raise AssertionError(lines)

    def _run_once(self):
        seen = os.path.getsize(self._log)
        done = subprocess.run(
            [self._root + PROGRAM, "-g", "-u", self._sr],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=BOUND,
        )
        # HANDLE_INVALID: a VDI was destroyed between two of its calls
        ends = (b"AbortException", b"HANDLE_INVALID")
        gave_up = self._may_give_up and any(end in done.stderr for end in ends)
        assert done.returncode == 0 or gave_up, done.stderr.decode()
        with open(self._log) as log:
            log.seek(seen)
            lines = [line.split("] ", 1)[1].strip() for line in log if " SMGC: [" in line]
        assert gave_up or any(line == IDLE for line in lines), lines
        return lines

    @property
    def _log(self):
        return self._root + "/var/log/SMlog"

    @contextlib.contextmanager
    def never_resting(self):
        """Run it again and again; a list of what it has done so far."""
        did, failed, end = [], [], threading.Event()

        def again():
            while not end.is_set():
                try:
                    did.extend(self.run())
                except Exception as error:  # told below, in the thread of the test
                    failed.append(error)
                    return

        thread = threading.Thread(target=again)
        thread.start()
        try:
            yield did
        finally:
            end.set()
            thread.join(BOUND)
        assert not thread.is_alive() and not failed, failed


def stopped(scene, when, **arguments):
    """A migration of the scene's VM whose worker stands still at a moment (lab.dom0.breakpoint):
    its id. Then it goes on."""
    return breakpoint.held(
        scene.host.root, when, lambda: scene.begin(**arguments), scene.journal, MOVE
    )
