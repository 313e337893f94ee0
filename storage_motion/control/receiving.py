"""The plugin at the destination: new disks behind their gates, the receiver for them, and their end.

What comes in is another pool's word: it is checked before anything is made. Everything that is made can be found again,
whatever is killed: VDIs carry the id of the migration in other_config from their creation on, and the journal names the SRs.
"""
import json
import os
import secrets as tokens

from storage_motion.control import claim, gate, journal, secrets, waiting
from storage_motion.control.arguments import UUID
from storage_motion.control.checks import CLAIM, MAX_DISKS
from storage_motion.control.journal import RECEIVING, Journal
from storage_motion.data import control_socket
from storage_motion.dom0 import inventory, launch, root, smapi
from storage_motion.dom0.launch import Process
from storage_motion.errors import BadArguments, GateOpen, MotionError, NoSuchMigration, ReceiverFailed
from storage_motion.xapi.records import Records

MODULE = "storage_motion.data.receiver"
LOG = "/var/log/sxm.log"
READY_TIMEOUT = 60.0       # the receiver makes a key and a certificate
ANSWER_TIMEOUT = 15.0
SM_TIMEOUT = 120.0
MAX_ARGUMENT = 4 * 1024 * 1024
SECTOR = 512
# Of each disk that is asked for: the field, and what type of JSON value it has.
FIELDS = (("key", str), ("sr", str), ("size", int), ("name_label", str), ("name_description", str), ("type", str),
          ("sharable", bool), ("other_config", dict), ("xenstore_data", dict), ("target", str))

OPTIONAL = {"target": "", "xenstore_data": {}}


def receive(session, given):
    """Make the disks (or take those that are to be filled), shut their gates, start the receiver. What it answers holds
    the token, and is for the source alone. On any failure everything is undone."""
    found = journal.check_id(given.get("migration", ""))
    wanted = _wanted(given.get("disks", ""))
    address = given.get("address") or _own_address(session)
    entry = Journal.create(found, RECEIVING, disks={}, srs=sorted({disk["sr"] for disk in wanted}), receiver=None)
    try:
        made = {disk["key"]: _prepare(session, entry, disk) for disk in wanted}
        return dict(_start_receiver(entry, address, made),
                    disks={key: {"vdi": disk["vdi"], "blank": disk["blank"]} for key, disk in made.items()})
    except BaseException:
        _undo(session, entry)
        raise


def receive_status(session, given):
    """{"state": of the receiver, "disks": {key: {"vdi", "gate": "shut" or "open"}}}"""
    entry = Journal.load(journal.check_id(given.get("migration", "")), RECEIVING)
    process = Process.from_json(entry.entry["receiver"])
    return {"state": "running" if process and process.alive() else "ended",
            "disks": {key: {"vdi": disk["vdi"], "gate": "shut" if gate.PAUSED in _config(session, disk["vdi"]) else "open"}
                      for key, disk in entry.entry["disks"].items() if disk["vdi"]}}


def receive_abort(session, given):
    """Take everything away again. Raises GateOpen if a gate has been opened, unless `force`, and if a disk is active, always."""
    entry = _known(given)
    if entry is None:
        return {}
    if given.get("force") != "true":
        for disk in entry.entry["disks"].values():
            there = disk["shut"] and Records(session).ref("VDI", disk["vdi"])
            if there and gate.PAUSED not in session.xenapi.VDI.get_sm_config(there):
                raise GateOpen(entry.entry["migration"], disk["vdi"])
    _undo(session, entry)
    return {}


def receive_end(session, given):
    """After the VM has arrived: the receiver goes, and the disks are disks like any other."""
    entry = _known(given)
    if entry is None:
        return {}
    for disk in entry.entry["disks"].values():
        if _config(session, disk["vdi"]).get(gate.PAUSED) == smapi.GATE_SHUT:
            raise ReceiverFailed(entry.entry["migration"], "the gate of %s is shut" % disk["vdi"])
    _stop_receiver(entry, "exit")
    for disk in entry.entry["disks"].values():
        claim.unmark_vdi(session, disk["vdi"], entry.entry["migration"])
    _forget(entry)
    return {}


def _known(given):
    """The journal of the migration that is meant; None if there is none, or none any more."""
    found = journal.check_id(given.get("migration", ""))
    try:
        return Journal.load(found, RECEIVING)
    except NoSuchMigration:
        return None


def _wanted(text):
    """The disks that are asked for, checked. Raises BadArguments."""
    right = "a list of %s" % ", ".join(name for name, _ in FIELDS)
    try:
        disks = json.loads(text) if len(text) <= MAX_ARGUMENT else None
    except (ValueError, RecursionError):
        disks = None
    if not isinstance(disks, list) or not 0 < len(disks) <= MAX_DISKS:
        raise BadArguments("disks: is not such a list; %s" % right)
    problems = []
    for index, disk in enumerate(disks):
        if isinstance(disk, dict):
            disk = disks[index] = dict(OPTIONAL, **disk)
        for name, kind in FIELDS:
            if not isinstance(disk, dict) or type(disk.get(name)) is not kind:
                problems.append("disks[%d]: %s is not a %s; %s" % (index, name, kind.__name__, right))
        if problems:
            continue
        if not UUID.match(disk["key"]) or not UUID.match(disk["sr"]) or disk["target"] and not UUID.match(disk["target"]):
            problems.append("disks[%d]: key, sr and target are UUIDs; %s" % (index, right))
        if disk["size"] <= 0 or disk["size"] % SECTOR:
            problems.append("disks[%d]: size is %d bytes; a positive multiple of %d" % (index, disk["size"], SECTOR))
        for name in ("other_config", "xenstore_data"):
            if not all(isinstance(value, str) for value in disk[name].values()):
                problems.append("disks[%d]: %s is not a map of strings" % (index, name))
    if not problems and len({disk["key"] for disk in disks}) != len(disks):
        problems.append("disks: a key is there twice")
    if problems:
        raise BadArguments(*problems)
    return disks


def _own_address(session):
    return session.xenapi.host.get_address(session.xenapi.host.get_by_uuid(inventory.host_uuid()))


def _prepare(session, entry, disk):
    """Make a disk, or take its target, and open it behind its gate. Its record for the receiver."""
    sr = session.xenapi.SR.get_by_uuid(disk["sr"])
    # Noted before: a VDI that is made now is looked for by its mark, in the SRs that the journal names.
    state = {"vdi": disk["target"] or None, "created": not disk["target"], "sr": disk["sr"], "shut": False}
    entry.entry["disks"][disk["key"]] = state
    entry.write()
    if disk["target"]:
        vdi = _take(session, entry, disk, sr)
    else:
        vdi = session.xenapi.VDI.create({
            "name_label": disk["name_label"], "name_description": disk["name_description"], "SR": sr,
            "virtual_size": str(disk["size"]), "type": disk["type"], "sharable": disk["sharable"], "read_only": False,
            "other_config": dict(disk["other_config"], **{CLAIM: entry.entry["migration"]}),
            "xenstore_data": disk["xenstore_data"], "sm_config": {}, "tags": []})
        state["vdi"] = session.xenapi.VDI.get_uuid(vdi)
        entry.write()
        made = int(session.xenapi.VDI.get_virtual_size(vdi))
        if made != disk["size"]:
            raise ReceiverFailed(entry.entry["migration"], "SR %s made %d bytes of the %d asked for" % (disk["sr"], made, disk["size"]))
    opened = json.loads(smapi.call(session, sr, "vdi_receive_start", vdi_ref=vdi, timeout=SM_TIMEOUT))
    state["shut"] = True
    entry.write()
    return {"vdi": state["vdi"], "sr": disk["sr"], "size": disk["size"], "socket": opened["socket"],
            "blank": bool(opened["blank"]) and not disk["target"]}


def _take(session, entry, disk, sr):
    """Mark the user's VDI as taken. Raises BadArguments if it is not what was planned with."""
    view = Records(session)
    ref, vdi = view.by_uuid("VDI", disk["target"])
    if not ref or vdi["SR"] != sr or int(vdi["virtual_size"]) != disk["size"] or gate.active(vdi["sm_config"]):
        raise BadArguments("target: VDI %s is not in SR %s, not of %d bytes, or in use" % (disk["target"], disk["sr"], disk["size"]))
    session.xenapi.VDI.add_to_other_config(ref, CLAIM, entry.entry["migration"])
    return ref


def _start_receiver(entry, address, made):
    """Start it and wait until it listens. {"address", "port", "fingerprint", "token"}"""
    found = entry.entry["migration"]
    directory = journal.run_directory(found)
    ready = os.path.join(directory, "ready.json")
    token = tokens.token_hex(32)
    spec = {"migration": found, "address": address, "token": token, "control": _control(found), "ready": ready,
            "log": root.path(LOG),
            "disks": {key: {name: disk[name] for name in ("vdi", "sr", "size", "socket")} for key, disk in made.items()}}
    secrets.keep(found, "receive", spec)
    process = launch.start("receiver-" + found, launch.python_module(MODULE, os.path.join(directory, "receive.json")))
    entry.write(receiver=process.to_json())

    def listening():
        if not process.alive():
            raise ReceiverFailed(found, "ended at once; see %s" % LOG)
        return os.path.exists(ready)
    waiting.until(listening, READY_TIMEOUT, "receiver of %s" % found)
    with open(ready) as source:
        answer = json.load(source)
    return {"address": address, "port": answer["port"], "fingerprint": answer["fingerprint"], "token": token}


def _control(migration):
    return os.path.join(journal.run_directory(migration), "r.ctl")


def _stop_receiver(entry, command):
    process = Process.from_json(entry.entry["receiver"])
    if process is None or not process.alive():
        return
    try:
        control_socket.request(_control(entry.entry["migration"]), {"cmd": command}, ANSWER_TIMEOUT)
    except MotionError:
        pass  # one that does not answer is ended all the same
    if not process.gone(ANSWER_TIMEOUT):
        process.stop()


def _undo(session, entry):
    """Take away what there is: idempotent, and for a journal in any state. Raises GateOpen if a disk is active."""
    found = entry.entry["migration"]
    _stop_receiver(entry, "abort")
    for disk in entry.entry["disks"].values():
        if not disk["vdi"]:
            disk["vdi"] = _orphan(session, disk["sr"], found, entry)
        if disk["vdi"] and Records(session).ref("VDI", disk["vdi"]):
            _remove(session, disk, found)
    _forget(entry)


def _remove(session, disk, migration):
    sr, vdi = session.xenapi.SR.get_by_uuid(disk["sr"]), session.xenapi.VDI.get_by_uuid(disk["vdi"])
    if session.xenapi.VDI.get_other_config(vdi).get(CLAIM) != migration:
        return  # not ours, or not ours any more
    smapi.call(session, sr, "vdi_receive_abort", vdi_ref=vdi, timeout=SM_TIMEOUT)
    if gate.active(session.xenapi.VDI.get_sm_config(vdi)):
        raise GateOpen(migration, disk["vdi"])
    if disk["created"]:
        session.xenapi.VDI.destroy(vdi)
    else:
        gate.unseal(session, vdi, smapi.GATE_SHUT)
        claim.unmark_vdi(session, disk["vdi"], migration)


def _orphan(session, sr_uuid, migration, entry):
    """The UUID of a VDI of ours that was made, but not noted any more."""
    known = {disk["vdi"] for disk in entry.entry["disks"].values()}
    view = Records(session)
    for ref in session.xenapi.SR.get_VDIs(session.xenapi.SR.get_by_uuid(sr_uuid)):
        vdi = view.of("VDI", ref)
        if vdi and vdi["other_config"].get(CLAIM) == migration and vdi["uuid"] not in known:
            return vdi["uuid"]
    return None


def _forget(entry):
    secrets.forget_all(entry.entry["migration"])
    entry.remove()


def _config(session, uuid):
    return session.xenapi.VDI.get_sm_config(session.xenapi.VDI.get_by_uuid(uuid))
