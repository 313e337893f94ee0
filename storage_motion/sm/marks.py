# SPDX-License-Identifier: LGPL-2.1-only
"""The marks in a VDI's sm_config: the keys by which SM activates it, or does not
(docs/facts/tapdisk-and-sm.md, 8, blktap2.VDI).

SM activates no VDI that has PAUSED or RELINKING, whatever the value, and waits for 120 s for both
to go. The locks at either end of a move are these keys with values of ours: by them they can be
told from SM's own, and SM's garbage collector (cleanup.py, ensureUnpaused) does not undo them after
a crash. Two, since the first is cleared when an SR's master plugs it (resetvdis.reset_sr), and the
second, which keeps nobody from deactivating, is SM's own while it relinks a child of a coalesced
image.
"""

PAUSED, RELINKING = "paused", "relinking"
PAUSED_BY_SM, RELINKED_BY_SM = "true", "True"

# The value with which a disk that receives is shut (switch/gate.py, sm/disks/filled.py).
SHUT = "storage-motion"

# There while a host activates the VDI; for good, if SM's command dies in that.
ACTIVATING = "activating"

# How the key of a host begins that has the VDI active.
HOST = "host_"


def of_source(migration: str) -> str:
    """The value with which a source's disk is locked while its VM moves; for both keys. SM only
    looks whether there is one."""
    return "sxm " + migration
