# SPDX-License-Identifier: LGPL-2.1-only
"""The arrival of a VM, as its new host notes it itself: a file with fsync, which no crash of a xapi
takes back.

xenopsd runs the hook vm-post-migrate on the host that receives as soon as the guest runs there on
its new disks (xenops_server.ml, VM_receive_memory), and api/hooks.py notes it then. So where there
is a note the new disks are the VM's, whatever xapi's database, the marks on its disks or xenopsd
say by now. Where there is none nothing is known: the host may have died in the moment between.
"""

import json
import time
from typing import Any, Dict, Optional

from storage_motion import strict_json
from storage_motion.dom0 import root
from storage_motion.errors import JournalError
from storage_motion.journal import journal
from storage_motion.journal.noting import noting

NAME = "arrived-%s.json"
MAX_BYTES = 4096


def note(migration: str, vm: str) -> None:
    """Note that the VM (a UUID) has arrived with this migration. It is on disk when this returns.
    Raises NotNoted."""
    text = json.dumps({"migration": migration, "vm": vm, "noted": time.time()}, sort_keys=True)
    with noting(_name(migration)):
        journal.replace(_path(migration), text)


def read(migration: str) -> Optional[Dict[str, Any]]:
    """{"migration", "vm", "noted": seconds since the epoch}, or None if no VM has arrived here with
    this migration, for all that is known.

    Raises JournalError for a note that cannot be read: who is not sure must not take the VM for
    absent."""
    path = _name(migration)
    try:
        with open(_path(migration), "rb") as source:
            found = strict_json.loads(source.read(MAX_BYTES).decode("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise JournalError(path, str(error))
    if (
        not isinstance(found, dict)
        or found.get("migration") != migration
        or not isinstance(found.get("vm"), str)
    ):
        raise JournalError(path, "not the note of an arrival")
    return found


def forget(migration: str) -> None:
    """Remove the note, if there is one. The migration has ended by then, and the source has been
    told. Raises NotNoted."""
    with noting(_name(migration)):
        journal.forget_file(_path(migration))


def _name(migration: str) -> str:
    """The file, as dom0 names it."""
    return "%s/%s" % (journal.DIRECTORY, NAME % journal.check_id(migration))


def _path(migration: str) -> str:
    root.private_directory(journal.DIRECTORY)
    return root.path(_name(migration))
