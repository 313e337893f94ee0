# SPDX-License-Identifier: LGPL-2.1-only
"""Short programs of dom0's."""

import logging
import subprocess
import sys

import pytest

from storage_motion.dom0 import programs


@pytest.mark.parametrize(
    "command, told",
    [
        (["sh", "-c", "echo out; echo err >&2; exit 3"], (3, "out\n", "err\n")),
        (["printf", "\\374"], (0, "\ufffd", "")),
        (["echo", "Z\u00fcrich"], (0, "Z\u00fcrich\n", "")),
    ],
)
def test_what_a_program_says(command, told):
    assert programs.run(command, 60) == told


def test_one_that_is_not_there():
    status, out, err = programs.run(["/nonexistent/program"], 60)
    assert (status, out) == (127, "") and "/nonexistent/program" in err


def test_one_that_does_not_end():
    status, out, _ = programs.run(["sh", "-c", "echo before; exec tail -f /dev/null"], 0.2)
    assert (status, out) == (None, "before\n")


def test_one_that_does_not_want_to_end():
    """Its shell ignores SIGTERM; what the shell has begun has a bound of its own."""
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    assert programs.run([sys.executable, "-c", stubborn], 0.5)[0] is None


def test_the_log_stays_as_quiet_as_it_was():
    """xcp.logger would let everything through."""
    asked = "import logging; from storage_motion.dom0 import programs; print(logging.root.level)"
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path[:0] = %r; %s" % (sys.path, asked)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    assert int(done.stdout) == logging.WARNING
