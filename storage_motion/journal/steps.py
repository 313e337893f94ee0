# SPDX-License-Identifier: LGPL-2.1-only
"""How far one disk is on its way through the switch (switch/disk_switch.py): a journal's `gate` of
a disk. Each is in the journal before the next one is begun."""

ATTACHED, DETACHED, LOCKING, LOCKED, OPENING, OPEN = (
    "attached",
    "detached",
    "locking",
    "locked",
    "opening",
    "open",
)
