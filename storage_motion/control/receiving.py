"""The plugin at the destination: new disks behind their gates, the receiver for them, and their end.

From before it is filled until the VM has it, or it is taken away, a disk is not managed by xapi
(xapi/managed.py): nobody else copies, destroys, snapshots or attaches it.

What comes in is another pool's word: it is checked before anything is made. Everything that is made can be found again,
whatever is killed: VDIs carry the id of the migration in other_config from their creation on, and the journal names the SRs.

A migration begins with one receiver. Disks whose mirror has broken get another one, and a new tapdisk: what the old ones were
still told, by a mover that is dead or a link that hangs, cannot reach the disk any more. The disks that are well stay with theirs.
"""
import contextlib
import json
import logging
import os
import secrets as tokens
import time

import XenAPI

from storage_motion import strict_json
from storage_motion.control import (activation, arrival, claim, formats, gate, journal, secrets,
                                    waiting)
from storage_motion.control.arguments import UUID
from storage_motion.control.checks import CLAIM, MAX_DISKS
from storage_motion.control.journal import RECEIVING, Journal
from storage_motion.data import control_socket
from storage_motion.dom0 import active, firewall, inventory, launch, opened, root, smapi
from storage_motion.dom0.disks.record import Record
from storage_motion.dom0.launch import Process
from storage_motion.errors import (BadArguments, DiskInUse, GateOpen, ImageLeft, JournalNotWritten, MotionError, NoSuchMigration, ReceiverFailed,
                                   SmFault, TimedOut)
from storage_motion.xapi import managed
from storage_motion.xapi.records import NULL, Records

MODULE = "storage_motion.data.receiver"
LOG = "/var/log/sxm.log"
READY_TIMEOUT = 60.0       # the receiver makes a key and a certificate
ANSWER_TIMEOUT = 15.0
RETIRE_TIMEOUT = 2.0
SM_TIMEOUT = 120.0
OTHERS_TIMEOUT = 60.0      # seconds for what others had begun with a disk
RECEIVE_TIMEOUT = 1800.0   # seconds that making and opening a hundred disks may take
REFUSED_FOR = 24 * 3600.0  # seconds for which it is remembered that a migration is not to begin
SPEC = "receive%d"
MAX_ARGUMENT = 4 * 1024 * 1024
SECTOR = 512
# Of each disk, what the receiver is told.
RECEIVED = ("vdi", "sr", "size", "socket", "depth", "blank")
# Of each disk that is asked for: the field, and what type of JSON value it has.
FIELDS = (("key", str), ("sr", str), ("size", int), ("name_label", str), ("name_description", str), ("type", str),
          ("sharable", bool), ("other_config", dict), ("xenstore_data", dict), ("target", str),
          ("image_format", str))

OPTIONAL = {"target": "", "xenstore_data": {}, "image_format": ""}

log = logging.getLogger("sxm")


def receive(session, given):
    """Make the disks (or take those that are to be filled), shut their gates, start the receiver. What it answers holds
    the token, and is for the source alone. On any failure everything is undone.

    `vm`: the UUID of the VM that the disks are for, by which its arrival is known. `again`: the source has asked before, and does not know
    what has come of it: whatever that has made, or makes yet, is taken away first."""
    found = journal.check_id(given.get("migration", ""))
    wanted = _wanted(given.get("disks", ""))
    vm = _vm(given)
    former = _known(given) if given.get("again") == "true" else None
    former = former and _idle(former)
    if former:
        _take_away(session, former, False)
    address = given.get("address") or _own_address(session)
    entry = Journal.create(found, RECEIVING, vm=vm, disks={}, srs=sorted({disk["sr"] for disk in wanted}), receivers=[], busy=_myself())
    try:
        made = {disk["key"]: _prepare(session, entry, disk) for disk in wanted}
        answer = _start_receiver(entry, address, made)
        entry.write(busy=None)
        return answer
    except BaseException:
        try:
            _undo(session, entry)
        except (MotionError, XenAPI.Failure, OSError) as error:
            # The source has it aborted once more, and tells what is left. Why it began is what the user has to read.
            log.error("%s: not all is taken away yet: %s", found, error)
        raise


def receive_renew(session, given):
    """Open disks of a known migration anew, behind their gates, and start another receiver for them. Answers as `receive` does.

    `disks`: a JSON list of their keys. Idempotent: whatever it raises, nothing has been lost, and it may be called again."""
    entry = Journal.load(journal.check_id(given.get("migration", "")), RECEIVING)
    keys = _known_keys(entry, given.get("disks", ""))
    address = given.get("address") or _own_address(session)
    entry.write(busy=_myself())
    try:
        _retire(entry, keys)
        answer = _start_receiver(entry, address, {key: _renew(session, entry, entry.entry["disks"][key]) for key in keys})
    except BaseException:
        with contextlib.suppress(JournalNotWritten):  # it is not busy any more when this process has ended
            entry.write(busy=None)
        raise
    entry.write(busy=None)
    return answer


def receive_stop(session, given):
    """End the receivers, and what they have the storage manager do. After the answer no gate opens any more that is shut now, and
    `receive-renew` alone makes the disks receive again. Idempotent. Raises TimedOut if a command does not end.

    `vm`: the UUID of the VM that the disks are for. What it has left behind active here, they are let go of. Answers what this host has
    noted in files of its own: {"arrived": whether the VM ran here on the disks, "opened": the keys of those whose gates have been opened,
    or were about to be, whatever their sm_config says}."""
    entry = _known(given)
    vm = _vm(given)
    if entry is None:
        return {"arrived": False, "opened": []}
    if not arrival.read(entry.entry["migration"]):   # else every gate has been opened: there is nothing to stop
        _retire(entry, list(entry.entry["disks"]))
        for disk in entry.entry["disks"].values():
            activation.end_dead(session, disk["vdi"])
            activation.let_go_dead(session, disk["vdi"], vm)
    return {"arrived": arrival.read(entry.entry["migration"]) is not None,
            "opened": sorted(key for key, disk in entry.entry["disks"].items() if disk["vdi"] and opened.noted(disk["vdi"]))}


def receive_status(session, given):
    """{"state": of the receiver, "arrived": whether this host has noted that the VM ran here, "disks": {key: {"vdi", "gate": "shut" or
    "open", "read_only": whether it is active here by a tapdisk that cannot write}}}"""
    entry = Journal.load(journal.check_id(given.get("migration", "")), RECEIVING)
    alive = [one for one in entry.entry["receivers"] if Process.from_json(one["process"]).alive()]
    return {"state": "running" if alive else "ended", "arrived": arrival.read(entry.entry["migration"]) is not None,
            "disks": {key: {"vdi": disk["vdi"], "gate": "shut" if gate.is_shut(_config(session, disk["vdi"])) else "open",
                            "read_only": active.is_read_only(disk["sr"], disk["vdi"])}
                      for key, disk in entry.entry["disks"].items() if disk["vdi"]}}


def receive_abort(session, given):
    """Take everything away again. Raises GateOpen if a gate has been opened, unless `force`, and always if a disk is active, or the VM
    has run on them; and ImageLeft, once, when all is done but for what cannot be told from somebody else's."""
    entry = _known(given)
    if entry is None:
        _refuse_from_now_on(given["migration"])
        return {}
    entry = _idle(entry)
    if entry is not None:
        _take_away(session, entry, given.get("force") == "true")
    return {}


def _take_away(session, entry, force):
    """All that was made. Raises as `receive_abort`."""
    if arrival.read(entry.entry["migration"]):
        raise GateOpen(entry.entry["migration"], "VM %s, which has arrived" % entry.entry.get("vm"))
    if not force:
        for disk in entry.entry["disks"].values():
            there = disk["shut"] and Records(session).ref("VDI", disk["vdi"])
            # One that was never opened here an older database has brought back so: nothing of the VM has used it.
            if there and not gate.is_shut(session.xenapi.VDI.get_sm_config(there)) and opened.noted(disk["vdi"]):
                raise GateOpen(entry.entry["migration"], disk["vdi"])
    unproven = _undo(session, entry)
    if unproven:
        _remove_journal(entry)
        raise ImageLeft(*unproven)


def receive_give(session, given):
    """The VM has the disks: xapi manages them again, as any others. Idempotent."""
    entry = _known(given)
    for disk in entry.entry["disks"].values() if entry else ():
        _manage(session, session.xenapi.VDI.get_by_uuid(disk["vdi"]))
    return {}


def receive_end(session, given):
    """After the VM has arrived: the receiver goes, and the disks are disks like any other."""
    entry = _known(given)
    if entry is None:
        arrival.forget(given["migration"])  # all that a call which was killed may have left
        return {}
    for disk in entry.entry["disks"].values():
        if smapi.GATE_SHUT in _config(session, disk["vdi"]).values():
            raise ReceiverFailed(entry.entry["migration"], "the gate of %s is shut" % disk["vdi"])
    _stop_receivers(entry, "exit")
    receive_give(session, given)
    for disk in entry.entry["disks"].values():
        claim.unmark_vdi(session, disk["vdi"], entry.entry["migration"])
        Record("receive", disk["vdi"]).remove()  # of a `finish` that has not come to its end
    secrets.forget_all(entry.entry["migration"])
    _remove_journal(entry)
    return {}


def _known(given):
    """The journal of the migration that is meant; None if there is none, or none any more."""
    found = journal.check_id(given.get("migration", ""))
    try:
        entry = Journal.load(found, RECEIVING)
    except NoSuchMigration:
        return None
    return None if refused(entry) else entry


def _vm(given):
    if not UUID.match(given.get("vm", "")):
        raise BadArguments("vm: %r is not the UUID of a VM" % given.get("vm", ""))
    return given["vm"]


def refused(entry):
    """Whether a receiving journal only says that nothing of this migration is to begin here."""
    return entry.entry["state"] == journal.CANCELLED


def _refuse_from_now_on(migration):
    """A `receive` of it may be on its way still, from a worker that was killed meanwhile: nobody would want its disks."""
    known = {other: Journal.load(other, RECEIVING) for other in journal.all_ids(RECEIVING)}
    for entry in known.values():
        if refused(entry) and time.time() - entry.entry["updated"] > REFUSED_FOR:
            entry.remove()
    if migration not in known:
        Journal.create(migration, RECEIVING, state=journal.CANCELLED, disks={}, srs=[], receivers=[])


def _myself():
    return Process.of(os.getpid()).to_json()


def _idle(entry):
    """Wait until a `receive` that is under way has answered, or failed: the journal then, or None. Raises TimedOut."""
    migration = entry.entry["migration"]

    def settled():
        latest = _known({"migration": migration})
        busy = latest and Process.from_json(latest.entry.get("busy"))
        return None if busy and busy.alive() else [latest]
    return waiting.until(settled, RECEIVE_TIMEOUT, "receive of %s" % migration)[0]


def _wanted(text):
    """The disks that are asked for, checked. Raises BadArguments."""
    right = "a list of %s" % ", ".join(name for name, _ in FIELDS)
    try:
        disks = strict_json.loads(text) if len(text) <= MAX_ARGUMENT else None
    except ValueError:
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
        if disk["image_format"] not in ("",) + formats.ASKED:
            problems.append("disks[%d]: image_format is %r; %s"
                            % (index, disk["image_format"], " or ".join(formats.ASKED)))
        for name in ("other_config", "xenstore_data"):
            if not all(isinstance(value, str) for value in disk[name].values()):
                problems.append("disks[%d]: %s is not a map of strings" % (index, name))
    if not problems and len({disk["key"] for disk in disks}) != len(disks):
        problems.append("disks: a key is there twice")
    if problems:
        raise BadArguments(*problems)
    return disks


def _known_keys(entry, text):
    """The keys that are asked for, checked. Raises BadArguments."""
    try:
        keys = strict_json.loads(text) if len(text) <= MAX_ARGUMENT else None
    except ValueError:
        keys = None
    known = {key for key, disk in entry.entry["disks"].items() if disk["vdi"]}
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) and key in known for key in keys):
        raise BadArguments("disks: is not a list of keys of disks of this migration")
    return sorted(set(keys))


def _own_address(session):
    return session.xenapi.host.get_address(session.xenapi.host.get_by_uuid(inventory.host_uuid()))


def _prepare(session, entry, disk):
    """Make a disk, or take its target, and open it behind its gate. Its record for the receiver."""
    sr = session.xenapi.SR.get_by_uuid(disk["sr"])
    # Noted before: a VDI that is made now is looked for by its mark, in the SRs that the journal names.
    key = disk["key"]
    entry.write_disks({key: {"vdi": disk["target"] or None, "created": not disk["target"], "sr": disk["sr"], "size": disk["size"],
                             "shut": False, "location": None}})
    if disk["target"]:
        vdi = _take(session, entry, disk, sr)
    else:
        vdi = session.xenapi.VDI.create({
            "name_label": disk["name_label"], "name_description": disk["name_description"], "SR": sr,
            "virtual_size": str(disk["size"]), "type": disk["type"], "sharable": disk["sharable"], "read_only": False,
            "other_config": dict(disk["other_config"], **{CLAIM: entry.entry["migration"]}),
            "xenstore_data": disk["xenstore_data"], "sm_config": _sm_config(disk), "tags": []})
        entry.write_disks({key: {"vdi": session.xenapi.VDI.get_uuid(vdi)}})
        made = int(session.xenapi.VDI.get_virtual_size(vdi))
        if not formats.is_as_large(made, disk["size"]):
            raise ReceiverFailed(entry.entry["migration"], "SR %s made %d bytes of the %d asked for" % (disk["sr"], made, disk["size"]))
    _keep_from_others(session, vdi)   # first: an older database that has the gate then has this, too
    opened = json.loads(smapi.call(session, sr, "vdi_receive_start", vdi_ref=vdi, timeout=SM_TIMEOUT))
    entry.write_disks({key: {"shut": True, "location": session.xenapi.VDI.get_location(vdi)}})
    return {"vdi": entry.entry["disks"][key]["vdi"], "sr": disk["sr"], "size": disk["size"], "socket": opened["socket"],
            "depth": opened["depth"], "blank": bool(opened["blank"]) and not disk["target"]}


def _sm_config(disk):
    """What SM is told of a new disk, as xapi tells it (storage_smapiv1_migrate.ml,
    receive_start_common)."""
    return {formats.IN_SM_CONFIG: disk["image_format"]} if disk["image_format"] else {}


def _keep_from_others(session, vdi):
    """Have xapi manage a disk no longer, and see that nobody has begun with it before. Raises DiskInUse.

    xapi notes an operation before it looks whether the VDI is managed: what is not seen here is refused."""
    managed.set_managed(session.xenapi.VDI.get_SR(vdi), vdi, False)
    try:
        waiting.until(lambda: not _others(session, vdi), OTHERS_TIMEOUT, "others to be done with a disk")
    except TimedOut:
        raise DiskInUse(session.xenapi.VDI.get_uuid(vdi), ", ".join(_others(session, vdi)))


def _others(session, vdi):
    """What others do with a VDI, or have it in, in words."""
    record = session.xenapi.VDI.get_record(vdi)
    return sorted(record["current_operations"].values()) + ["VBD %s" % vbd for vbd in record["VBDs"] if vbd != NULL]


def _manage(session, vdi):
    if not session.xenapi.VDI.get_managed(vdi):
        managed.set_managed(session.xenapi.VDI.get_SR(vdi), vdi, True)


def _renew(session, entry, disk):
    """Close the tapdisk of a disk and open another one. Its record for the receiver. Raises GateOpen if it is not shut."""
    migration = entry.entry["migration"]
    sr, vdi = session.xenapi.SR.get_by_uuid(disk["sr"]), session.xenapi.VDI.get_by_uuid(disk["vdi"])
    config = session.xenapi.VDI.get_sm_config(vdi)
    ours = session.xenapi.VDI.get_other_config(vdi).get(CLAIM) == migration
    if not ours or not gate.is_shut(config) or gate.active(config):
        raise GateOpen(migration, disk["vdi"])
    smapi.call(session, sr, "vdi_receive_abort", vdi_ref=vdi, timeout=SM_TIMEOUT)
    opened = json.loads(smapi.call(session, sr, "vdi_receive_start", vdi_ref=vdi, timeout=SM_TIMEOUT))
    return {"vdi": disk["vdi"], "sr": disk["sr"], "size": disk["size"], "socket": opened["socket"],
            "depth": opened["depth"], "blank": bool(opened["blank"]) and disk["created"]}


def _take(session, entry, disk, sr):
    """Mark the user's VDI as taken. Raises BadArguments if it is not what was planned with."""
    view = Records(session)
    ref, vdi = view.by_uuid("VDI", disk["target"])
    as_large = ref and formats.is_as_large(int(vdi["virtual_size"]), disk["size"])
    if not as_large or vdi["SR"] != sr or gate.active(vdi["sm_config"]):
        raise BadArguments("target: VDI %s is not in SR %s, not of %d bytes, or in use" % (disk["target"], disk["sr"], disk["size"]))
    session.xenapi.VDI.add_to_other_config(ref, CLAIM, entry.entry["migration"])
    return ref


def _start_receiver(entry, address, made):
    """Start one for the disks in `made` ({key: record}), and wait until it listens. What `receive` answers."""
    found = entry.entry["migration"]
    number = _next_number(entry)
    ready = os.path.join(journal.run_directory(found), "ready%d.json" % number)
    token = tokens.token_hex(32)
    spec = {"migration": found, "address": address, "token": token, "control": _control(found, number), "ready": ready,
            "log": root.path(LOG),
            "disks": {key: {name: disk[name] for name in RECEIVED} for key, disk in made.items()}}
    secrets.keep(found, SPEC % number, spec)
    process = launch.start("receiver-%s-%d" % (found, number), launch.python_module(MODULE, _spec(found, number)))
    others = entry.entry["receivers"]
    started = {"number": number, "process": process.to_json(), "keys": sorted(made)}
    entry.write(receivers=others + [started])

    def listening():
        if not process.alive():
            raise ReceiverFailed(found, "ended at once; see %s" % LOG)
        return os.path.exists(ready)
    waiting.until(listening, READY_TIMEOUT, "receiver of %s" % found)
    with open(ready) as source:
        answer = json.load(source)
    # Noted before: what is admitted can be found, and closed, by whoever comes after a crash.
    entry.write(receivers=others + [dict(started, port=answer["port"])])
    firewall.open_port(answer["port"])
    return {"address": address, "port": answer["port"], "fingerprint": answer["fingerprint"], "token": token,
            "disks": {key: {"vdi": disk["vdi"], "blank": disk["blank"]} for key, disk in made.items()}}


def _next_number(entry):
    return 1 + max([one["number"] for one in entry.entry["receivers"]] or [0])


def _spec(migration, number):
    return os.path.join(journal.run_directory(migration), SPEC % number + ".json")


def _control(migration, number):
    return os.path.join(journal.run_directory(migration), "r%d.ctl" % number)


def _retire(entry, keys):
    """The disks `keys` leave their receivers. One that has none left is ended; without courtesy, since it may well be stuck.

    When this returns nothing of a `finish` of theirs is under way any more. Raises TimedOut if it does not end."""
    for one in entry.entry["receivers"]:
        if set(one["keys"]) <= set(keys):
            _end_receiver(entry, one)
    # Their entries stay, and so their numbers are not given away again: a file of an old one is never taken for a new one's.
    entry.write(receivers=[dict(one, keys=[key for key in one["keys"] if key not in keys]) for one in entry.entry["receivers"]])
    _end_unnoted(entry)
    smapi.await_commands([entry.entry["disks"][key]["vdi"] for key in keys if entry.entry["disks"][key]["vdi"]])


def _close_port(entry, one):
    """Before its receiver goes: afterwards the port may be another one's. Notes it, so that it is closed once."""
    if one.get("port"):
        firewall.close_port(one["port"])
        entry.write(receivers=[dict(other, port=None) if other["number"] == one["number"] else other for other in entry.entry["receivers"]])


def _end_receiver(entry, one):
    _close_port(entry, one)
    Process.from_json(one["process"]).stop(RETIRE_TIMEOUT)
    # A child of it looks like it until it has become a command of the storage manager, which is waited for as such.
    for child in launch.running(MODULE, _spec(entry.entry["migration"], one["number"])):
        if not child.gone(RETIRE_TIMEOUT):
            raise ReceiverFailed(entry.entry["migration"], "process %d, of its receiver, does not end" % child.pid)


def _stop_receivers(entry, command):
    for one in entry.entry["receivers"]:
        _close_port(entry, one)
        _stop_receiver(Process.from_json(one["process"]), _control(entry.entry["migration"], one["number"]), command)
    _end_unnoted(entry)


def _end_unnoted(entry):
    """One more receiver may have been started by a plugin that died before it could note that."""
    for orphan in launch.running(MODULE, _spec(entry.entry["migration"], _next_number(entry))):
        orphan.stop()


def _stop_receiver(process, control, command):
    if not process.alive():
        return
    try:
        control_socket.request(control, {"cmd": command}, ANSWER_TIMEOUT)
    except MotionError:
        pass  # one that does not answer is ended all the same
    if not process.gone(ANSWER_TIMEOUT):
        process.stop()


def _undo(session, entry):
    """Take away what there is: idempotent, and for a journal in any state. Raises GateOpen if a disk is active.

    What may be left, as details of ImageLeft: then the journal stays, for whoever has it aborted to be told. Else ()."""
    found = entry.entry["migration"]
    _stop_receivers(entry, "abort")
    secrets.forget_all(found)  # whatever comes of the disks: no receiver has a use for them any more
    known = [dict(disk, vdi=disk["vdi"] or _orphan(session, disk["sr"], found, entry)) for disk in entry.entry["disks"].values()]
    found_again = _find_again(session, known)
    there = [disk for disk in known if disk["vdi"] and Records(session).ref("VDI", disk["vdi"])]
    waiting.at_once(lambda disk: _remove(session, disk, found, disk["vdi"] in found_again), there)
    unproven = sum((_remove_unnamed(session, disk, entry) for disk in known if not disk["vdi"]), ())
    if not unproven:
        _remove_journal(entry)
    return unproven


def _find_again(session, disks):
    """A xapi that was killed may have lost the record of a disk that we made; its image is there, and known by its UUID. Answers the UUIDs of
    those that a scan has brought back."""
    lost = [disk for disk in disks if disk["created"] and disk["vdi"] and not Records(session).ref("VDI", disk["vdi"])]
    for sr in sorted({disk["sr"] for disk in lost}):
        session.xenapi.SR.scan(session.xenapi.SR.get_by_uuid(sr))
    return {disk["vdi"] for disk in lost if Records(session).ref("VDI", disk["vdi"])}


def _remove(session, disk, migration, found_again):
    sr, vdi = session.xenapi.SR.get_by_uuid(disk["sr"]), session.xenapi.VDI.get_by_uuid(disk["vdi"])
    # What a scan has just brought back has no mark any more, nor has a disk of the user's that an older database has.
    unmarked = (None,) if found_again or not disk["created"] else ()
    if session.xenapi.VDI.get_other_config(vdi).get(CLAIM) not in unmarked + (migration,):
        return  # not ours, or not ours any more
    try:
        smapi.call(session, sr, "vdi_receive_abort", vdi_ref=vdi, timeout=SM_TIMEOUT)
    except SmFault:
        # The gate is shut before the disk is opened. Without it there is nothing to close, though the driver cannot say so; it may
        # be that it never could open anything here.
        if smapi.GATE_SHUT in session.xenapi.VDI.get_sm_config(vdi).values():
            raise
    if gate.active(session.xenapi.VDI.get_sm_config(vdi)):
        raise GateOpen(migration, disk["vdi"])
    if disk["created"]:
        _manage(session, vdi)     # xapi destroys nothing else
        session.xenapi.VDI.destroy(vdi)
    else:
        gate.open_again(session, vdi)
        _manage(session, vdi)
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


def _remove_unnamed(session, disk, entry):
    """A VDI was to be made, and is not there: whatever made it may have died when only its image was. Details of ImageLeft, or ()."""
    sr = Records(session).ref("SR", disk["sr"])
    if sr is None or "size" not in disk:
        return ()
    try:
        removed = smapi.call(session, sr, "sr_remove_unnamed", args=(str(disk["size"]), repr(entry.entry["started"])), timeout=SM_TIMEOUT)
    except SmFault as error:
        return ("SR %s: an image of %d bytes that no VDI names may be left" % (disk["sr"], disk["size"]), str(error))
    if removed:
        log.warning("%s: image %s in SR %s, which no VDI names, is removed", entry.entry["migration"], removed, disk["sr"])
    return ()


def _remove_journal(entry):
    for disk in entry.entry["disks"].values():
        if disk["vdi"]:
            opened.forget(disk["vdi"])
    entry.remove()
    arrival.forget(entry.entry["migration"])  # last: without it, and the gates shut, the disks could be taken for nobody's


def _config(session, uuid):
    return session.xenapi.VDI.get_sm_config(session.xenapi.VDI.get_by_uuid(uuid))
