# SPDX-License-Identifier: LGPL-2.1-only
"""What `sxm selftest` needs of dom0: a disk's digest, a pattern on a disk that it made, the end of
its own worker.

Each refuses what has not the marks of the selftest that is named (selftest_marks.py): TESTED is on
a VM that it may move; MADE on a VDI that it made, and on these alone is anything written.
"""

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Tuple

from storage_motion.api import lookup
from storage_motion.api.arguments import Problems
from storage_motion.api.selftest_marks import ID, MADE, MADE_VM, TESTED, is_original
from storage_motion.dom0 import gate_notes, launch
from storage_motion.errors import DiskInUse, NotOfSelftest, NotRunning, TimedOut, TooLate
from storage_motion.journal import journal
from storage_motion.journal.journal import Journal
from storage_motion.plan.checks import CLAIM
from storage_motion.sm import marks, repeated_commands
from storage_motion.wire import nbd_client
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    import XenAPI

MIB = 1 << 20
MOST_FILLED = 1 << 30  # bytes of a disk that is filled
MOST_READ = 64 << 30  # bytes of a disk whose digest is told
BOUND = 1800.0  # seconds for a digest, or a pattern
HOLE = 4  # of so many MiB the first has no data: so a copy meets holes, and no BIOS boots from it
WRITABLE = "RW"


def digest(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """{"sha256": of all that a disk reads as, "bytes"}: of one of a VM that the selftest may move,
    that is halted. It is opened read-only, on this host.

    Raises BadArguments, NotOfSelftest, DiskInUse, TimedOut, SmFault."""
    selftest = _id(given)
    _, vdi, sr_uuid = _vdi(session, given["vdi"])
    owners = _owners(session, vdi)
    _require_tested(vdi, owners, selftest)
    _require_unused(session, vdi, owners)
    if int(vdi["virtual_size"]) > MOST_READ:
        raise NotOfSelftest(
            "VDI %s" % vdi["uuid"], selftest, "it is larger than %d GiB" % (MOST_READ >> 30)
        )
    # From here on sm's tag of our tapdisk keeps who would write from opening it, on every host.
    opened = json.loads(repeated_commands.ask(session, sr_uuid, "vdi_copy_open", vdi["uuid"]))
    try:
        found, size = _sha256(opened["socket"], opened["depth"])
    finally:
        repeated_commands.ask(session, sr_uuid, "vdi_copy_close", vdi["uuid"])
    return {"vdi": vdi["uuid"], "sha256": found, "bytes": size}


def fill(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Write the selftest's pattern to a disk that it made: {"sha256": of what was written,
    "bytes"}. If this fails the disk stays closed to all; `release` is what may follow.

    Raises BadArguments, NotOfSelftest, DiskInUse, TimedOut, SmFault."""
    selftest = _id(given)
    _, vdi, sr_uuid = _vdi(session, given["vdi"])
    size = int(vdi["virtual_size"])
    owners = _owners(session, vdi)
    _require_made(vdi, owners, selftest)
    _require_unused(session, vdi, owners)
    if size > MOST_FILLED:
        raise NotOfSelftest(
            "VDI %s" % vdi["uuid"], selftest, "it is larger than %d GiB" % (MOST_FILLED >> 30)
        )
    opened = json.loads(repeated_commands.ask(session, sr_uuid, "vdi_receive_start", vdi["uuid"]))
    client = nbd_client.connect(opened["socket"], depth=opened["depth"])
    total, end = hashlib.sha256(), time.monotonic() + BOUND
    try:
        for offset, piece in pattern(selftest, size):
            total.update(piece)
            if any(piece[:1024]):
                client.write(offset, piece)
            _keep_to(end, "the pattern on VDI %s" % vdi["uuid"])
    finally:
        client.close()
    repeated_commands.ask(session, sr_uuid, "vdi_receive_finish", vdi["uuid"])
    gate_notes.forget(vdi["uuid"])  # no recovery will ask
    return {"vdi": vdi["uuid"], "sha256": total.hexdigest(), "bytes": size}


def release(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Close a disk, if a `digest` or `fill` that was killed has left it open on this host. One that
    the selftest made may then be destroyed; a halted VM that it may move, be started. Raises
    BadArguments, NotOfSelftest, DiskInUse, SmFault."""
    selftest = _id(given)
    ref, vdi, sr_uuid = _vdi(session, given["vdi"])
    owners = _owners(session, vdi)
    made = vdi["other_config"].get(MADE) == selftest
    if made:
        _require_made(vdi, owners, selftest)
    else:
        _require_tested(vdi, owners, selftest)
        _require_halted(vdi, owners)
    _require_no_migration(vdi, owners)
    repeated_commands.ask(session, sr_uuid, "vdi_copy_close", vdi["uuid"])
    if made and marks.SHUT in session.xenapi.VDI.get_sm_config(ref).values():
        repeated_commands.ask(session, sr_uuid, "vdi_receive_abort", vdi["uuid"])
    if made:
        gate_notes.forget(vdi["uuid"])
    return {"vdi": vdi["uuid"]}


def kill(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """End, by SIGKILL, the worker of a migration of a VM that the selftest may move; no other. On
    whichever host it runs. Raises BadArguments, NotOfSelftest, NotRunning, TooLate,
    NoSuchMigration."""
    selftest = _id(given)

    def end(entry: Journal) -> Dict[str, Any]:
        found, vm_uuid = entry.entry["migration"], entry.entry["plan"]["vm"]
        _, vm = Records(session).by_uuid("VM", vm_uuid)
        if vm is None or vm["other_config"].get(TESTED) != selftest:
            raise NotOfSelftest("migration %s" % found, selftest, "it moves another VM")
        if entry.entry["committed"]:
            raise TooLate(found, str(entry.entry["phase"]))
        worker = launch.Process.from_json(entry.entry["worker"])
        if (
            entry.entry["state"] != journal.RUNNING
            or worker is None
            or not worker.alive()
            or found not in launch.arguments(worker.pid)
        ):
            raise NotRunning(found, entry.entry["state"])
        worker.kill()
        return {"migration": found, "pid": worker.pid}

    return lookup.where_known(session, given, "selftest-kill", end, selftest=selftest)


def pattern(selftest: str, size: int) -> Iterator[Tuple[int, bytes]]:
    """What `fill` writes to a disk of `size` bytes: (offset, bytes) from its begin to its end."""
    for offset in range(0, size, MIB):
        length = min(MIB, size - offset)
        index = offset // MIB
        if index % HOLE == 0:
            yield offset, bytes(length)
        else:
            seed = "%s %d" % (selftest, index)
            yield offset, hashlib.shake_128(seed.encode()).digest(length)


def _sha256(socket: str, depth: int) -> Tuple[str, int]:
    client = nbd_client.connect(socket, depth=depth)
    total, end = hashlib.sha256(), time.monotonic() + BOUND
    try:
        for offset, length in nbd_client.pieces(0, client.size):
            total.update(client.read(offset, length))
            _keep_to(end, "the digest of a disk")
        return total.hexdigest(), client.size
    finally:
        client.close()


def _keep_to(end: float, what: str) -> None:
    if time.monotonic() > end:
        raise TimedOut(what, "%g" % BOUND)


def _id(given: Dict[str, str]) -> str:
    problems = Problems()
    if not ID.match(given["selftest"]):
        problems.add("selftest", "is not the id of a selftest", "eight digits of base 16")
    problems.raise_any()
    return given["selftest"]


def _vdi(session: "XenAPI.Session", uuid: str) -> Tuple[str, Dict[str, Any], str]:
    """Its ref, its record, its SR's UUID."""
    ref = session.xenapi.VDI.get_by_uuid(uuid)
    record = session.xenapi.VDI.get_record(ref)
    return ref, record, session.xenapi.SR.get_uuid(record["SR"])


def _owners(session: "XenAPI.Session", vdi: Dict[str, Any]) -> List[Dict[str, Any]]:
    """The records of the VMs that have it."""
    api = session.xenapi
    return [api.VM.get_record(api.VBD.get_VM(vbd)) for vbd in vdi["VBDs"]]


def _require_tested(vdi: Dict[str, Any], owners: List[Dict[str, Any]], selftest: str) -> None:
    """Raises NotOfSelftest unless it is a disk of a VM that the selftest may move."""
    if not any(vm["other_config"].get(TESTED) == selftest for vm in owners):
        raise NotOfSelftest("VDI %s" % vdi["uuid"], selftest, "it is no disk of its VM")


def _require_made(vdi: Dict[str, Any], owners: List[Dict[str, Any]], selftest: str) -> None:
    """Raises NotOfSelftest unless it was made by it, and no other VM has it. One that no VM has
    may be somebody's copy."""
    wrong = ""
    if vdi["other_config"].get(MADE) != selftest or not owners and not is_original(vdi):
        wrong = "it has not made it"
    elif any(
        vm["other_config"].get(TESTED) != selftest or vm["other_config"].get(MADE_VM) != vm["uuid"]
        for vm in owners
    ):
        wrong = "another VM has it, too"
    if wrong:
        raise NotOfSelftest("VDI %s" % vdi["uuid"], selftest, wrong)


def _require_unused(
    session: "XenAPI.Session", vdi: Dict[str, Any], owners: List[Dict[str, Any]]
) -> None:
    """Raises DiskInUse if somebody has it open, or may soon, to write to it."""
    _require_halted(vdi, owners)
    why = []
    for ref in vdi["VBDs"]:
        vbd = session.xenapi.VBD.get_record(ref)
        if vbd["currently_attached"] and vbd["mode"] == WRITABLE:
            why.append("VBD %s is plugged" % vbd["uuid"])
    why += [
        "%s is %s" % (key, value)
        for key, value in sorted(vdi["sm_config"].items())
        if key.startswith(marks.HOST) and value == WRITABLE
    ]
    if why:
        raise DiskInUse(vdi["uuid"], "; ".join(why))
    _require_no_migration(vdi, owners)


def _require_halted(vdi: Dict[str, Any], owners: List[Dict[str, Any]]) -> None:
    """Raises DiskInUse unless the VMs that have it are."""
    why = [
        "VM %s is %s" % (vm["uuid"], vm["power_state"])
        for vm in owners
        if vm["power_state"] != "Halted" and not vm["is_control_domain"]
    ]
    if why:
        raise DiskInUse(vdi["uuid"], "; ".join(why))


def _require_no_migration(vdi: Dict[str, Any], owners: List[Dict[str, Any]]) -> None:
    for other_config in [vdi["other_config"]] + [vm["other_config"] for vm in owners]:
        if CLAIM in other_config:
            raise DiskInUse(vdi["uuid"], "migration %s has it" % other_config[CLAIM])
