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
ENDS = ("AbortException", "HANDLE_INVALID", "UUID_INVALID", "FileNotFoundError")
"""How it ends beside others: where one has it give up a merge; and where one has deleted a VDI
since it looked at the SR, which is not locked then: xapi has none, or there is no image of it. So
does the real one; the next that is started goes on (cleanup.py, run_gc)."""


class Collector:
    """That of the SR on which the scene's VM has its disks now."""

    def __init__(self, scene):
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
            did += _acts(lines)
            if not any("skipping" in line for line in lines):
                return did
        raise AssertionError(lines)

    def _run_once(self, may_end=False):
        """The lines that it logs. `may_end`: as ENDS has it."""
        seen = os.path.getsize(self._log)
        done = subprocess.run(
            [self._root + PROGRAM, "-g", "-u", self._sr],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=BOUND,
        )
        said = done.stderr.decode()
        has_ended = may_end and any(end in said for end in ENDS)
        with open(self._log) as log:
            log.seek(seen)
            logged = list(log)
        assert done.returncode == 0 or has_ended, said + "".join(logged)
        lines = [line.split("] ", 1)[1].strip() for line in logged if " SMGC: [" in line]
        assert has_ended or any(line == IDLE for line in lines), lines
        return lines

    @property
    def _log(self):
        return self._root + "/var/log/SMlog"

    @contextlib.contextmanager
    def never_resting(self):
        """Run it again and again, while others use and delete the VDIs; a list of what it has done
        so far. What it skips, since somebody has it open, it comes back to."""
        did, failed, end = [], [], threading.Event()

        def again():
            while not end.is_set():
                try:
                    did.extend(_acts(self._run_once(may_end=True)))
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
        did.extend(self.run())  # as SM's next scan has it run: what was deleted beside it is there


def _acts(lines):
    return [line for line in lines if line.startswith(ACTS)]


def stopped(scene, when, **arguments):
    """A migration of the scene's VM whose worker stands still at a moment (lab.dom0.breakpoint):
    its id. Then it goes on."""
    return breakpoint.held(
        scene.host.root, when, lambda: scene.begin(**arguments), scene.journal, MOVE
    )
