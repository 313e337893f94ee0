# SPDX-License-Identifier: LGPL-2.1-only
"""The disk on which the images of a bench are: a file system on a loop device in memory, all of
whose pages are taken before anything is timed. It wants root.

In a plain file in memory each block that is written for the first time is a new page. In a virtual
machine whose memory its host takes back when it is free (free page reporting), such a page costs
more than all that a copy does with it, and more at one time than at another.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile

HOME = "/dev/shm"
PIECE = 1 << 20
# no journal, so nothing is written twice; what is deleted keeps its pages (nodiscard)
FILE_SYSTEM = "mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=0,nodiscard".split()
MOUNT = "mount -o nodiscard,noatime".split()
BOUND = 300.0  # seconds of any command


@contextlib.contextmanager
def mounted(size):
    """The directory of such a disk of `size` bytes. Raises OSError, CalledProcessError."""
    home = tempfile.mkdtemp(prefix="sxm-bench-", dir=HOME)
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, home)
        file, place = os.path.join(home, "disk"), os.path.join(home, "files")
        os.mkdir(place)
        with open(file, "wb", buffering=0) as target:
            for _ in range(size // PIECE):
                target.write(bytes(PIECE))
        device = _output(["losetup", "-f", "--show", file])
        undo.callback(_output, ["losetup", "-d", device])
        _output([*FILE_SYSTEM, device])
        _output([*MOUNT, device, place])
        undo.callback(_output, ["umount", place])
        yield place


def _output(command):
    return subprocess.check_output(command, timeout=BOUND, text=True).strip()
