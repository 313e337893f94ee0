# SPDX-License-Identifier: LGPL-2.1-only
"""How long a mover or receiver lives."""

import os
import subprocess
import sys

from data_harness import PYTHON_LIBS, REPOSITORY

AT_EACH_LINE = """
import os, signal, sys
from storage_motion.wire import service

def ended_by_signal(number):
    # at the line of that number which the main thread goes through in a wait, and what it calls
    life, lines = service.Life(0.5), []

    def trace(frame, event, _):
        if event == "line":
            lines.append(frame)
            if len(lines) == number:
                os.kill(os.getpid(), signal.SIGTERM)
        return trace

    sys.settrace(trace)
    try:
        return life.wait()
    finally:
        sys.settrace(None)

number = 1
while ended_by_signal(number):
    number += 1
print(number)
"""


def test_a_signal_ends_it_wherever_it_comes():
    """At each line that the main thread goes through until it waits, and in whatever that calls:
    a lock that it has there is one that the signal's handler must not want."""
    done = subprocess.run(
        [sys.executable, "-c", AT_EACH_LINE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
        env=dict(os.environ, PYTHONPATH=REPOSITORY + os.pathsep + PYTHON_LIBS),
    )
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) > 5, "lines before it waits"
