# SPDX-License-Identifier: LGPL-2.1-only
"""A pause of sm's that nobody will end any more, and how that is known.

sm marks a VDI `paused`, has its tapdisk paused, does its work, has the tapdisk go on, and takes the
mark away (blktap2.VDI.tap_pause, tap_unpause). All of these but the work are calls of xapi, and of
one that ends meanwhile sm has no other: its command then fails where it stands. It leaves the mark,
and the tapdisk paused or not. Of sm itself only the collector takes the mark away, when it merges
that very disk (cleanup.py, VDI.ensureUnpaused), or a plug of the SR on its master
(resetvdis.reset_sr), which does not have the tapdisk go on.

A mark of sm's is nobody's any more if this host is the SR's master and, since it was seen to be
there, the SR's lock was free and no process of sm that is about the VDI was. For whoever pauses a
disk (sm 471cf7e, and 3.2.12-8.3 of XCP-ng) runs on the SR's master, and

    vdi_snapshot, vdi_clone; vdi_delete, of a neighbour with CBT    holds the SR's lock from begin to end (SRCommand._run_locked, OPS_EXCLUSIVE)
    the collector: VDI.pause, VDI.refresh, SR.pauseVDIs             holds the SR's lock from pause to unpause
    vdi_enable_cbt, vdi_disable_cbt, vdi_compose                    is a process with the VDI's uuid in its argument
    the plugin tapdisk-pause, on each host that has the disk        is one, too, and may outlive whom it works for

Nobody new can come in between: who finds the mark there cannot put another one, and gives up
(MAP_DUPLICATE_KEY). Where another host is the SR's master, which alone can see all that, it is
asked; the tapdisk is seen to here, once the mark has gone.
"""  # noqa: E501

import contextlib
import json
import os
from typing import Any, Dict, Iterator

from storage_motion.dom0 import launch, root
from storage_motion.sm import marks
from storage_motion.sm.disks.disk import HOST_PREFIX, Disk
from storage_motion.sm.smapi import DRIVERS

PLUGIN = "/etc/xapi.d/plugins/tapdisk-pause"
COLLECTORS_ENTRY = "leaf_"  # of cleanup.py's journal, a file beside the images (fjournaler)


@contextlib.contextmanager
def sr_locked(sr: Any) -> Iterator[bool]:
    """Hold the lock of an SR object, if this host is the SR's master and the lock is free. Yields
    whether it is held."""
    held = is_master(sr) and sr.lock.acquireNoblock()
    try:
        yield held
    finally:
        if held:
            sr.lock.release()


def at_it(vdi_uuid: str) -> bool:
    """Whether a process of sm on this host, but for this one, is about a VDI."""
    return bool(
        launch.running(below=(root.path(DRIVERS) + "/", root.path(PLUGIN)), mentioning=(vdi_uuid,))
    )


def is_left(disk: Disk, sm_config: Dict[str, str], host_key: str) -> bool:
    """Whether the mark in a disk's `sm_config`, which was read with the SR's lock held, is sm's,
    and nobody's any more. It is not said of a disk that is active anywhere but on the one host with
    that key: there its tapdisk may be paused."""
    hosts = [key for key in sm_config if key.startswith(HOST_PREFIX)]
    return (
        sm_config.get(marks.PAUSED) == marks.PAUSED_BY_SM
        and hosts in ([], [host_key])
        and not at_it(disk.uuid)
    )


def is_master(sr: Any) -> bool:
    """Whether this host is the master of an SR object."""
    return sr.dconf.get("SRmaster") == "true"


def end_for(disk: Disk, host_key: str) -> bool:
    """On the SR's master: whether nobody is at a disk that is active on the one host with that key.
    A mark that is nobody's any more is taken away."""
    with sr_locked(disk.sr) as held:
        if not held or at_it(disk.uuid):
            return False
        config = disk.sm_config()
        if is_left(disk, config, host_key) and not half_done(disk):
            disk.api.remove_from_sm_config(disk.ref, marks.PAUSED)
            return True
        return marks.PAUSED not in config


def ask_master(disk: Disk) -> bool:
    """The same of the SR's master, which is another host, by our plugin there."""
    xapi = disk.sr.session.xenapi
    (pool,) = xapi.pool.get_all()
    arguments = {"vdi": disk.uuid, "host-key": disk.host_key}
    return json.loads(
        xapi.host.call_plugin(xapi.pool.get_master(pool), "sxm.py", "end-pause", arguments)
    )["nobody"]


def half_done(disk: Disk) -> bool:
    """Whether sm's journal has something that was interrupted at the disk's images: then a tapdisk
    must not open them before sm has put them right, as it does in a scan of the SR. With the SR's
    lock held."""
    journaler = getattr(disk.sr, "journaler", None)  # LVM's
    if journaler is not None:
        return journaler.hasJournals(disk.uuid)
    return os.path.exists(os.path.join(disk.sr.path, COLLECTORS_ENTRY + disk.uuid))
