# SPDX-License-Identifier: LGPL-2.1-only
"""How much of xapi's database is on this host's disk: the files that /etc/xensource/db.conf names.

Beside each database xapi writes, after it and with fsync too, the generation that is in it
(ocaml/database: backend_xml.ml `flush`, parse_db_conf.ml). Every change of the database takes the
next generation.
"""

from typing import List

from storage_motion.dom0 import root

CONFIGURATION = "/etc/xensource/db.conf"
DEFAULT = "/var/lib/xcp/state.db"  # of a xapi without a configuration
SUFFIX = ".generation"
REMOTE = "is_on_remote_storage:true"  # such a file need not be there when xapi starts


def generation() -> int:
    """The latest generation that is on this host's own disk: what xapi starts with. -1: none is."""
    return max([-1] + [_generation_of(path) for path in _paths()])


def _paths() -> List[str]:
    try:
        with open(root.path(CONFIGURATION)) as source:
            blocks = source.read().split("\n\n")
    except FileNotFoundError:
        return [DEFAULT]
    found = []
    for block in blocks:
        lines = [
            line.strip().lower() if index else line.strip()
            for index, line in enumerate(block.strip().splitlines())
        ]
        if lines and lines[0].startswith("[/") and lines[0].endswith("]") and REMOTE not in lines:
            found.append(lines[0][1:-1])
    return found


def _generation_of(path: str) -> int:
    try:
        with open(root.path(path + SUFFIX)) as source:
            return int(source.read())
    except (FileNotFoundError, ValueError):
        return -1
