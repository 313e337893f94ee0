"""Bringing the disks into sync, one after another, smallest first; those that are in sync stay mirrored meanwhile."""
import json

from storage_motion.control import waiting
from storage_motion.control.checks import CLAIM
from storage_motion.control.movers import BROKEN
from storage_motion.dom0 import smapi
from storage_motion.dom0.launch import Process
from storage_motion.errors import CopyFailed, MirrorBroken, MoverFailed, SmFault
from storage_motion.xapi.records import Records

POLL = 0.1
COPY_TIMEOUT = 30 * 24 * 3600.0   # a bound for form's sake: a stall of the mirror or of the channel ends a copy much earlier
SNAPSHOT_TIMEOUT = 180.0
SM_TIMEOUT = 120.0


def synchronise(m):
    """Mirror (if the VM runs) and copy every disk. Raises MirrorBroken, CopyFailed, MoverFailed, SmFault or Cancelled."""
    for disk in m.plan.disks:
        try:
            _synchronise(m, disk)
        except (SmFault, CopyFailed):
            # A broken mirror shows in many ways, such as a snapshot that could not be mirrored: name the cause.
            watch(m)
            raise


def _synchronise(m, disk):
    mover = m.mover(disk.key)
    m.note(disk.key, mover=mover.start(disk.size).to_json())
    copied_from = _mirror(m, disk, mover) if m.plan.live else disk.key
    _copy(m, disk, mover, copied_from)
    _drop_snapshots(m, disk)
    m.note(disk.key, state="in-sync")


def stop(m):
    """Detach every mirror, end every mover, and leave no snapshot. The guest runs on, on its own disks."""
    for disk in reversed(m.plan.disks):
        entry = m.disk(disk.key)
        # The mover first: when its sockets close, a tapdisk that waits for the mirror goes on at once.
        with m.tolerated("mover of %s" % disk.key):
            m.mover(disk.key).end(Process.from_json(entry.get("mover")), "abort")
        if entry.get("mirror"):
            with m.tolerated("mirror of %s" % disk.key):
                _sm(m, disk, "vdi_mirror_stop", disk.key)
                m.note(disk.key, mirror=False)
        with m.tolerated("copy of %s" % disk.key):
            _close(m, disk)
        with m.tolerated("snapshot of %s" % disk.key):
            _drop_snapshots(m, disk)


def watch(m):
    """Look at all movers. Raises MirrorBroken for the first that is broken, or has died. Returns {key: status}."""
    found = {}
    for key in [key for key, entry in m.entry["disks"].items() if entry.get("mover")]:
        try:
            status = m.mover(key).status()
        except MoverFailed as error:
            m.note(key, state="broken")
            raise MirrorBroken(key, str(error))
        m.progress.take(key, status)
        found[key] = status
        if status["state"] == BROKEN:
            m.note(key, state="broken")
            raise MirrorBroken(key, str(status.get("error")))
    return found


def _mirror(m, disk, mover):
    """Snapshot the disk and mirror it, in one step. Returns the UUID of the snapshot."""
    # Noted before: whatever is killed now, the undo looks for a mirror and a snapshot.
    m.note(disk.key, state="mirroring", mirror=True)
    snapshot = _sm(m, disk, "vdi_mirror_start", disk.key, args=(mover.secondary,), timeout=SNAPSHOT_TIMEOUT)
    m.note(disk.key, snapshot=snapshot)
    return snapshot


def _copy(m, disk, mover, copied_from):
    """Copy what the VDI `copied_from` (a UUID) holds, and wait until that is there and verified."""
    m.note(disk.key, state="copying", copy_open=copied_from)
    socket = _sm(m, disk, "vdi_copy_open", copied_from)
    extents = json.loads(_sm(m, disk, "vdi_extents", copied_from))
    mover.copy(socket, extents, m.disk(disk.key)["blank"])

    def done():
        m.pulse()
        copy = watch(m)[disk.key]["copy"]
        if copy["state"] == "failed":
            raise CopyFailed(disk.key, str(copy.get("error")))
        return copy["state"] == "done"
    waiting.until(done, COPY_TIMEOUT, "copy of %s" % disk.key, POLL)
    _close(m, disk)


def _close(m, disk):
    opened = m.disk(disk.key).get("copy_open")
    if opened and Records(m.source).ref("VDI", opened):
        _sm(m, disk, "vdi_copy_close", opened)
    m.note(disk.key, copy_open=None)


def _drop_snapshots(m, disk):
    """Destroy the snapshots of a disk that carry our mark, or that the journal knows."""
    if not m.plan.live:
        return
    api = m.source.xenapi.VDI
    known = m.disk(disk.key).get("snapshot")
    for ref in api.get_snapshots(m.source_vdi(disk)):
        record = api.get_record(ref)
        if record["uuid"] == known or record["other_config"].get(CLAIM) == m.id:
            api.destroy(ref)
    m.note(disk.key, snapshot=None)


def _sm(m, disk, command, vdi_uuid, args=(), timeout=SM_TIMEOUT):
    """One of MirrorSR's commands for a VDI of the disk's SR. Raises SmFault."""
    sr = m.source.xenapi.SR.get_by_uuid(disk.source_sr)
    vdi = m.source.xenapi.VDI.get_by_uuid(vdi_uuid)
    return smapi.call(m.source, sr, command, vdi_ref=vdi, args=args, timeout=timeout)
