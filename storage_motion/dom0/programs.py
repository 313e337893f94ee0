# SPDX-License-Identifier: LGPL-2.1-only
"""Runs a short program of dom0's and takes what it says, with a bound.

By xcp.cmd of dom0's python3-xcp-libs, which writes the command and all of its output to the log:
nothing secret is run by it. What is killed, or answered, in another way runs its programs itself.
"""

import logging
import signal
from typing import List, Optional, Tuple

_level = logging.getLogger().level
from xcp.cmd import runCmd  # noqa: E402

logging.getLogger().setLevel(_level)  # xcp.logger lets everything through as it is imported

# Of coreutils' timeout: the program was ended by SIGTERM, or a second later by SIGKILL, which ends
# the whole process group, timeout included.
TIMEOUT = ["timeout", "-k", "1"]
ENDED = (124, 128 + signal.SIGKILL, -signal.SIGKILL)


def run(command: List[str], seconds: float) -> Tuple[Optional[int], str, str]:
    """(exit status, standard output, standard error) of a program that does not read its input.

    Status None: it did not end within `seconds`, and was ended. 126 or 127: it cannot be run."""
    status, out, err = runCmd(
        TIMEOUT + ["%g" % seconds] + command, with_stdout=True, with_stderr=True
    )
    return (None if status in ENDED else status), out, err
