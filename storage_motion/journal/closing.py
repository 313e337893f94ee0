# SPDX-License-Identifier: LGPL-2.1-only
"""A guest that is about to close its disks by itself, as it does when it reboots: the word of a
hook, for the worker.

xenopsd runs vm-pre-shutdown before it closes the disks (xenops_server.ml, VM_reboot and
VM_poweroff). A file in /run/sxm/<id>/: like the mirrors, it does not outlive the host. It is there
before the disk is closed, so whoever has seen a mirror end and then finds none knows that it was
not this that ended it.
"""

import contextlib
import os
from typing import Optional

from storage_motion.journal import journal
from storage_motion.journal.noting import noting

NAME = "closing"
MAX_BYTES = 200


def note(migration: str, why: str) -> None:
    """Leave word. `why`: "hard-reboot", or another reason of xenopsd's. Raises NotNoted."""
    with noting(_name(migration)):
        journal.replace(_path(migration), why, sync=False)


def noted(migration: str) -> Optional[str]:
    """Why the guest closes its disks; None if it does not, as far as is known. Raises NotNoted:
    whoever cannot know must not take a mirror for one that ended cleanly."""
    with noting(_name(migration)):
        try:
            with open(_path(migration), encoding="utf-8", errors="replace") as source:
                return source.read(MAX_BYTES)
        except FileNotFoundError:
            return None


def forget(migration: str) -> None:
    """It has been seen to. Raises NotNoted."""
    with noting(_name(migration)), contextlib.suppress(FileNotFoundError):
        os.unlink(_path(migration))


def _name(migration: str) -> str:
    """The file, as dom0 names it."""
    return "%s/%s/%s" % (journal.RUN, journal.check_id(migration), NAME)


def _path(migration: str) -> str:
    return os.path.join(journal.run_directory(migration), NAME)
