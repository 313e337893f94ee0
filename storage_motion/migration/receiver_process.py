# SPDX-License-Identifier: LGPL-2.1-only
"""The program that a receiver is: what takes the disks knows nothing of xapi, what opens their
gates does.

python3 -m storage_motion.migration.receiver_process SPEC
"""

import sys

from storage_motion.destination import receiver
from storage_motion.switch.destination_gates import Gates
from storage_motion.wire import service


def run(path: str) -> int:
    """The process, with the spec in the file `path` (destination/receiver.py); its exit code."""
    return receiver.run(path, Gates())


if __name__ == "__main__":
    sys.exit(service.main(run, "receiver"))
