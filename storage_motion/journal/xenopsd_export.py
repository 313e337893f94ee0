# SPDX-License-Identifier: LGPL-2.1-only
"""What xenopsd knew of a VM before it was asked to move it: /var/lib/sxm/<id>.xenopsd, beside the
journal, which holds no secret.

It is what brings xapi's record of the VM to halted again (migration/xenopsd_leftovers.py), so it
has to outlive whatever ends the migration. It is for root alone: what the administrator has put
into the VM's xenstore data is in it.
"""

import os
from typing import Optional

from storage_motion.dom0 import root
from storage_motion.errors import JournalNotWritten
from storage_motion.journal import journal

ENDING = ".xenopsd"


def keep(migration: str, text: str) -> None:
    """Keep it, synced, in place of what was kept. Raises JournalNotWritten: without it the VM's end
    could not be told to xapi."""
    path = _path(migration)
    try:
        journal.replace(path, text)
    except OSError as error:
        raise JournalNotWritten(path, error.strerror or error.__class__.__name__)


def get(migration: str) -> Optional[str]:
    """What was kept, or None."""
    try:
        with open(_path(migration)) as source:
            return source.read()
    except FileNotFoundError:
        return None


def forget(migration: str) -> None:
    """Remove it."""
    path = _path(migration)
    if os.path.exists(path):
        os.unlink(path)


def _path(migration: str) -> str:
    return os.path.join(
        root.private_directory(journal.DIRECTORY), journal.check_id(migration) + ENDING
    )
