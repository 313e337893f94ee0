# SPDX-License-Identifier: LGPL-2.1-only
"""What has not come along with a VM to another pool, and goes at the source with the VM: kept as a
file beside the journals of the source host, for root alone, where it has room for that. Whoever
wants it takes it from there within DAYS."""

import contextlib
import os
import time
from typing import Iterable

from storage_motion.dom0 import root
from storage_motion.errors import NotNoted
from storage_motion.journal import journal
from storage_motion.journal.noting import noting

PREFIX = "kept-"
DAYS = 30
MOST = 256 * 1024 * 1024  # bytes of all such files
STAYS_FREE = 1024 * 1024 * 1024  # bytes of the file system, for the journals and dom0


def keep(migration: str, name: str, pieces: Iterable[bytes]) -> str:
    """Keep a file of a migration, in place of one of that name. Returns its path (dom0's). Raises
    NotNoted, and what `pieces` raises: then there is what there was before."""
    path = "%s/%s%s-%s" % (journal.DIRECTORY, PREFIX, journal.check_id(migration), name)
    with noting(path):
        directory = root.private_directory(journal.DIRECTORY)
        here, temporary = root.path(path), root.path(path) + ".part"
        left = _room(directory, here, temporary)  # which are replaced
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as out:
                for piece in pieces:
                    left -= len(piece)
                    _require_room(path, directory, left, len(piece))
                    out.write(piece)
                out.flush()
                os.fsync(out.fileno())
            os.rename(temporary, here)
        except BaseException:
            with contextlib.suppress(OSError):  # what has failed is what matters
                os.unlink(temporary)
            raise
        journal.sync_directory(directory)
    return path


def room() -> int:
    """How many bytes may be kept yet, where the file system has them."""
    directory = root.path(journal.DIRECTORY)
    return _room(directory) if os.path.isdir(directory) else MOST


def prune() -> None:
    """Remove those of more than DAYS ago."""
    directory = root.path(journal.DIRECTORY)
    for file in _files(directory) if os.path.isdir(directory) else ():
        with contextlib.suppress(FileNotFoundError):  # somebody has taken it away
            if os.path.getmtime(file) < time.time() - DAYS * 24 * 3600:
                os.unlink(file)


def _files(directory: str) -> Iterable[str]:
    return [
        os.path.join(directory, name) for name in os.listdir(directory) if name.startswith(PREFIX)
    ]


def _room(directory: str, *but: str) -> int:
    return MOST - sum(os.path.getsize(file) for file in _files(directory) if file not in but)


def _require_room(path: str, directory: str, left: int, size: int) -> None:
    if left < 0:
        raise NotNoted(path, "more than %d MiB of what is kept" % (MOST >> 20))
    if root.free_bytes(directory) < STAYS_FREE + size:
        raise NotNoted(path, "less than %d MiB would be free" % (STAYS_FREE >> 20))
