# SPDX-License-Identifier: LGPL-2.1-only
"""A word for the worker of a migration, a file in /run/sxm/<id>/, that comes too late.

The end of a migration takes that directory away. A word that is left in the very moment makes it
anew, and nobody comes to take it away any more, unless who has left it does.
"""

import contextlib
import os
from typing import Optional

from storage_motion.dom0 import root
from storage_motion.errors import NoSuchMigration
from storage_motion.journal import journal
from storage_motion.journal.journal import Journal

FORGOTTEN = "forgotten"  # of one whose journal is gone, as so many have ended since


def take_back(migration: str, name: str) -> Optional[str]:
    """To be called when the word `name` has been left: None if the migration runs on, else the
    state that it has ended in, and the word is gone again. Raises JournalError."""
    # In this order: its journal says that it has ended before the directory is taken away. So if
    # it runs still, the word is there for the worker, and goes with all the others.
    try:
        state: str = Journal.load(migration).entry["state"]
    except NoSuchMigration:
        state = FORGOTTEN
    if state == journal.RUNNING:
        return None
    directory = os.path.join(root.path(journal.RUN), journal.check_id(migration))
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(os.path.join(directory, name))
    with contextlib.suppress(OSError):  # what else is in it is wanted by a recovery
        os.rmdir(directory)
    return state
