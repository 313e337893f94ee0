"""The receiver: the process at the destination that takes the disks of one migration from their movers.

    python3 -m storage_motion.data.receiver SPEC

SPEC is a JSON file, 0600:

    {"migration", "address": to listen on, "token", "control": unix path, "ready": path of the JSON file that it writes when it
     listens: {"port", "fingerprint"}, "log": path or "", "disks": {key: {"vdi", "sr": uuids, "size": bytes, "socket": unix path of
     the NBD server of the tapdisk that vdi_receive_start gave}}, optional: "orphan_bound": 600.0 s}

It opens a disk's gate when, and only when, the disk's mirror and copy have ended cleanly and its mover says so. Every write was
answered by tapdisk then. However else the receiver ends, its VDIs stay shut: the plugin's `receive-abort` clears them away.
"""
import logging
import os
import sys

from storage_motion.data import channel, service
from storage_motion.data.control_socket import ControlSocket
from storage_motion.data.listener import Listener
from storage_motion.data.received_disk import ReceivedDisk

log = logging.getLogger(__name__)


def open_gate(sr_uuid, vdi_uuid):
    """Close the tapdisk of that VDI and take its mark away, by MirrorSR. Raises MotionError, XenAPI.Failure, OSError."""
    # Here and not above: the data path has no need of xapi, and its tests run without one.
    from storage_motion.dom0 import smapi
    from storage_motion.xapi import session as sessions
    session = sessions.local()
    try:
        sr, vdi = session.xenapi.SR.get_by_uuid(sr_uuid), session.xenapi.VDI.get_by_uuid(vdi_uuid)
        smapi.call(session, sr, "vdi_receive_finish", vdi)
    finally:
        sessions.logout(session)


def run(path, gate_opener=open_gate):
    """The process, with the spec in the file `path`; its exit code. `gate_opener` as `open_gate`. Raises DataPathError."""
    spec = service.load_spec(path, ("address", "token", "control", "ready", "disks"))
    service.start_log(spec.get("log", ""), "receiver")
    bound = spec.get("orphan_bound", service.ORPHAN_BOUND)
    life = service.Life(bound)
    disks = {key: ReceivedDisk(key, disk, gate_opener) for key, disk in spec["disks"].items()}
    certificate = channel.make_certificate(os.path.dirname(spec["ready"]))
    listener = Listener(spec["address"], certificate, spec["token"], disks, life.heard)

    def status(_):
        life.heard()
        return {"state": "listening", "disks": {key: disk.status() for key, disk in disks.items()}}

    def end(_):
        life.end()
        return {"ok": True}

    control = ControlSocket(spec["control"], {"status": status, "exit": end, "abort": end})
    service.write_private(spec["ready"], {"port": listener.port, "fingerprint": certificate.fingerprint})
    log.info("listening on %s port %d for %d disks", spec["address"], listener.port, len(disks))
    try:
        asked = life.wait()
        if not asked:
            log.error("nobody has been heard of for %s s: giving up; what is shut stays shut", bound)
    finally:
        listener.close()
        control.close()
        os.unlink(spec["ready"])
    return 0 if asked else 3


if __name__ == "__main__":
    sys.exit(service.main(run, "receiver"))
