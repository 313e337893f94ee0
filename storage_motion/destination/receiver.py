# SPDX-License-Identifier: LGPL-2.1-only
"""The receiver: the process at the destination that takes the disks of one migration from their
movers.

    python3 -m storage_motion.migration.receiver_process SPEC

SPEC is a JSON file, 0600:

    {"migration", "address": to listen on, "token", "control": unix path, "ready": path of the JSON file that it writes when it
     listens: {"port", "fingerprint"}, "log": path or "", "disks": {key: {"vdi", "sr": uuids, "size": bytes, "socket": unix path of
     the NBD server of the tapdisk that vdi_receive_start gave, "depth": requests in flight on a
     connection with it, "blank": whether it reads as zeros, "read_only": whether the VM will have it so}}, optional: "orphan_bound": 600.0 s}

It opens a disk's gate when, and only when, the disk's mirror and copy have ended cleanly and its
mover says so. Every write was answered by tapdisk then. From then on it holds the gate open,
whatever xapi forgets. However else the receiver ends, its VDIs stay shut: the plugin's
`receive-abort` clears them away.
"""  # noqa: E501

import contextlib
import logging
import os
import threading
import time
from typing import Any, Dict, Iterable, List

from storage_motion.destination.listener import Listener
from storage_motion.destination.received_disk import ReceivedDisk
from storage_motion.wire import channel, service
from storage_motion.wire.control_socket import ControlSocket

LEAVE = 1.0  # seconds at its end for a look that is under way
LOOK = 1.0  # seconds between two looks at the gates that have been opened: as often as SM looks
GUARD = 0.1  # seconds between two looks for commands of SM's that would have a disk only to read
# seconds until it is seen that SM waits for a lock that is held against these: the guest waits, too
WAITING = 0.01

log = logging.getLogger(__name__)


def hold_open(disks: Iterable[ReceivedDisk], gates: Any, life: service.Life) -> None:
    """Look after the gates that have been opened, as long as the process lives: what ends it for
    good, and waits for the storage manager's commands, can shut a gate (the plugin's
    `receive-stop`). Where a look met no xapi, the next one follows soon."""
    pause = LOOK
    while life.lasts(pause):
        well = [disk.hold_open() for disk in _opened(disks)]
        pause = LOOK if all(well) else GUARD
    gates.close()


def keep_writable(disks: Iterable[ReceivedDisk], gates: Any, life: service.Life) -> None:
    """See Gates.keep_writable: as long as the process lives, of the disks whose gates have been
    opened. At once if somebody waits for what that keeps."""
    looked = 0.0
    while life.lasts(WAITING if gates.keeps_out() else GUARD):
        try:
            if time.monotonic() - looked > GUARD or not gates.keeps_out() or gates.is_waited_for():
                looked = time.monotonic()
                gates.keep_writable({disk.vdi: disk.sr for disk in _opened(disks)})
        except Exception:  # it is looked again, and nobody waits for a lock of ours meanwhile
            log.exception("commands of the storage manager that would have a disk only to read")
            gates.end_guard()
    gates.end_guard()


def _opened(disks: Iterable[ReceivedDisk]) -> List[ReceivedDisk]:
    return [disk for disk in disks if disk.gate == "open"]


def run(path: str, gates: Any) -> int:
    """The process, with the spec in the file `path`; its exit code. `gates`: who opens them
    (switch/destination_gates.py, Gates). Raises DataPathError."""
    spec = service.load_spec(path, ("address", "token", "control", "ready", "disks"))
    service.start_log(spec.get("log", ""), "receiver", spec.get("migration", ""))
    service.switch_threads_often()
    bound = spec.get("orphan_bound", service.ORPHAN_BOUND)
    life = service.Life(bound)
    disks = {key: ReceivedDisk(key, disk, gates) for key, disk in spec["disks"].items()}
    certificate = channel.make_certificate(os.path.dirname(spec["ready"]))
    listener = Listener(spec["address"], certificate, spec["token"], disks, life.heard)

    def status(_: Dict[str, Any]) -> Dict[str, Any]:
        life.heard()
        return {"state": "listening", "disks": {key: disk.status() for key, disk in disks.items()}}

    def end(_: Dict[str, Any]) -> Dict[str, Any]:
        life.end()
        return {"ok": True}

    control = ControlSocket(spec["control"], {"status": status, "exit": end, "abort": end})
    service.write_private(
        spec["ready"], {"port": listener.port, "fingerprint": certificate.fingerprint}
    )
    watches = [
        threading.Thread(
            target=watch, args=(list(disks.values()), gates, life), name=watch.__name__, daemon=True
        )
        for watch in (hold_open, keep_writable)
    ]
    for watch in watches:
        watch.start()
    log.info("listening on %s port %d for %d disks", spec["address"], listener.port, len(disks))
    try:
        asked = life.wait()
        if not asked:
            log.error(
                "nobody has been heard of for %s s: giving up; what is shut stays shut", bound
            )
    finally:
        life.end()
        for watch in watches:
            watch.join(LEAVE)
        listener.close()
        control.close()
        # It goes with all the rest of /run/sxm/<id> where somebody has not waited for this end.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(spec["ready"])
    return 0 if asked else 3
