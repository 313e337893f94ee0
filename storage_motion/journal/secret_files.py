# SPDX-License-Identifier: LGPL-2.1-only
"""What must not be in a journal, a log or an argv: kept in /run/sxm/<id>/ (memory, on a host), for
root alone."""

import errno
import json
import os
import shutil
from typing import Any, Iterable, Optional

from storage_motion.dom0 import launch, root
from storage_motion.journal import journal
from storage_motion.journal.noting import noting


def keep(migration: str, name: str, value: Any) -> None:
    """Keep a JSON value of a migration under a name. Raises NotNoted."""
    with noting("%s/%s/%s.json" % (journal.RUN, migration, name)):
        journal.replace(
            os.path.join(journal.run_directory(migration), name + ".json"),
            json.dumps(value),
            sync=False,
        )


def get(migration: str, name: str) -> Any:
    """What was kept. Raises FileNotFoundError."""
    with open(os.path.join(journal.run_directory(migration), name + ".json")) as source:
        return json.load(source)


def forget(migration: str) -> None:
    """Remove what is secret of a migration that has ended with something left: its processes may
    still be there, and their sockets stay. Who recovers it gives the password anew."""
    path = root.path("%s/%s" % (journal.RUN, journal.check_id(migration)))
    for name in sorted(os.listdir(path)) if os.path.isdir(path) else ():
        if name.endswith(".json"):
            os.unlink(os.path.join(path, name))


def forget_all(migration: str) -> None:
    """Remove all that is in /run/sxm/<id>/, and the directory: secrets, sockets, specifications.
    And the units of its processes that systemd keeps because they were killed."""
    path = root.path("%s/%s" % (journal.RUN, journal.check_id(migration)))
    if os.path.isdir(path):
        launch.forget_failed(migration)
        _remove(path)


def _remove(path: str) -> None:
    """Remove a directory, in which somebody may leave a word just now, and take it away again as it
    comes too late (late_word.py): what is gone is no error, and what has just come is his."""

    def tolerate(_function: Any, _path: str, info: Any) -> None:
        error = info[1]
        if not isinstance(error, OSError) or error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise error

    shutil.rmtree(path, onerror=tolerate)


def scrub(text: str, secrets: Iterable[Optional[str]]) -> str:
    """`text` without any of the `secrets`."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return text
