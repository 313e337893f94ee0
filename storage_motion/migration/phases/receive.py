# SPDX-License-Identifier: LGPL-2.1-only
"""The destination's part, asked for from the source: new disks behind their gates, and a receiver
for them."""

import json
import logging
import time
from typing import TYPE_CHECKING, Any, Dict, List, Sequence

import XenAPI

from storage_motion.journal import secret_files
from storage_motion.migration import durable
from storage_motion.plan.checks import CLAIM
from storage_motion.switch import gate
from storage_motion.xapi import repeated
from storage_motion.xapi.records import Records
from storage_motion.xapi.session import NOT_XAPI, reason

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk

KEPT = "kept"  # state of the disk of a snapshot that is verified and kept there (history.py)

log = logging.getLogger("sxm")


def begin(m: "Migration") -> None:
    """Have the destination prepare. The token that it answers goes to the secrets, never to the
    journal.

    A crash of its xapi that forgets the disks, though the receiver would go on filling them, costs
    nothing yet: it is asked again then."""
    add(m, m.plan.disks)


def add(m: "Migration", disks: Sequence["Disk"]) -> None:
    """The same for some of its disks. Of a VM with snapshots it is called for the disks of these
    before, and is to take away nothing of them when it is asked again."""
    function = "receive-add" if m.plan.history else "receive"
    kept = [disk.key for disk in m.plan.history if m.disk(disk.key)["state"] == KEPT]
    asked: List[bool] = []

    def ask() -> None:
        # A VM with the original's UUID that arrives there is none of a copy's: no VM has our id.
        arguments = {"vm": m.id if m.plan.copy else m.plan.vm, "address": m.plan.address}
        if asked and function == "receive":
            arguments["again"] = "true"
        if kept:
            arguments["kept"] = json.dumps(kept)
        m.note(receiving=True)
        asked.append(True)
        wanted = json.dumps([_wanted(disk) for disk in disks])
        _take(m, disks, _asked(m, function, disks=wanted, **arguments))

    durable.keep((m.destination,), ask, lambda: _unguarded(m, disks), "the new disks")


def keep(m: "Migration", disks: Sequence["Disk"]) -> None:
    """Have the destination keep disks of snapshots, which are whole there. What xapi forgets of
    them until the next call is not taken for kept: others are to be based on them."""
    keys = json.dumps([disk.key for disk in disks])

    def ask() -> None:
        m.plugin("receive-keep", disks=keys)

    durable.keep((m.destination,), ask, lambda: unkept(m, disks), "disks of snapshots")


def unkept(m: "Migration", disks: Sequence["Disk"]) -> List[str]:
    """What xapi does not know of disks of snapshots that are kept there: a list, in words."""
    found: List[str] = []
    api = m.destination.xenapi.VDI
    for disk in disks:
        uuid = m.disk(disk.key)["destination_vdi"]
        vdi = Records(m.destination).ref("VDI", uuid)
        if not vdi:
            found.append("VDI %s" % uuid)
        elif gate.is_shut(api.get_sm_config(vdi)):
            found.append("that VDI %s is open" % uuid)
        elif not api.get_is_a_snapshot(vdi):
            found.append("that VDI %s is a snapshot" % uuid)
    return found


def _unguarded(m: "Migration", disks: Sequence["Disk"]) -> List[str]:
    """What xapi does not know, or does not keep from others, of new disks: a list, in words."""
    found: List[str] = []
    api = m.destination.xenapi.VDI
    for disk in disks:
        uuid = m.disk(disk.key)["destination_vdi"]
        vdi = Records(m.destination).ref("VDI", uuid)
        if not vdi:
            found.append("VDI %s" % uuid)
        elif not gate.is_shut(api.get_sm_config(vdi)) or api.get_managed(vdi):
            found.append("the gate of VDI %s" % uuid)
    return found


def _asked(m: "Migration", function: str, **arguments: str) -> str:
    """What `receive` or `receive-add` answers. Where the answer is lost with a xapi that was killed
    it is asked again (`receive` is told so): it then begins with taking away what the call before
    has made."""
    for left in reversed(range(repeated.TRIES)):
        try:
            return m.plugin(function, **arguments)
        except (XenAPI.Failure, OSError) + NOT_XAPI as error:
            if not left or not repeated.is_away(error):
                raise
            log.warning(
                "%s: the destination was asked to receive, and its answer is lost (%s): it is "
                "asked again",
                m.id,
                reason(error),
            )
        m.pulse()
        time.sleep(repeated.PAUSE)
        if function == "receive":
            arguments["again"] = "true"
    raise AssertionError("the last try answers or raises")


def reopen(m: "Migration", disks: Sequence["Disk"]) -> None:
    """Have the destination open `disks` of the plan anew: another tapdisk for each, and a receiver,
    with a token, for them all."""
    _take(
        m,
        disks,
        m.plugin(
            "receive-renew", address=m.plan.address, disks=json.dumps([disk.key for disk in disks])
        ),
    )


def _take(m: "Migration", disks: Sequence["Disk"], text: str) -> None:
    answer = json.loads(text)
    secret_files.keep(
        m.id,
        "receiver",
        {field: answer[field] for field in ("address", "port", "fingerprint", "token")},
    )
    for disk in disks:
        made = answer["disks"][disk.key]
        m.note(
            disk.key,
            destination_vdi=made["vdi"],
            blank=bool(made["blank"]),
            contents=made.get("contents"),
            images=made.get("images"),
            holds=bool(made.get("holds")),
        )
        if made.get("no_base"):
            m.warn(
                "disk %s is not made as a clone of VDI %s, and all of it is sent: %s"
                % (disk.key, disk.base_there, made["no_base"])
            )


def tell_owed(m: "Migration") -> None:
    """Have the destination know what the VM is to get back in the end, before it may leave: if this
    host never comes back nobody else knows."""
    tracked = [m.disk(key)["destination_vdi"] for key in m.entry.get("cbt_disabled", [])]
    priority = m.entry.get("ha_restart_priority", "")
    if tracked or priority:
        wanted = {"ha-restart-priority": priority, "vdis": json.dumps(tracked)}
        m.plugin("receive-owed", **wanted)


def give(m: "Migration") -> None:
    """Have the new disks be the VM's for xapi, too: until then it refuses them to everybody."""
    m.plugin("receive-give")


def abort(m: "Migration") -> None:
    """Have the destination take everything away again. By then every gate that had been opened is
    shut (shut_gates.py)."""
    if m.entry.get("receiving"):
        if m.lost:
            m.note(receiving=False)
            return
        opened = any(entry.get("opened") for entry in m.entry["disks"].values())
        force = {"force": "true"} if opened else {}
        durable.keep(
            (m.destination,),
            lambda: _abort(m, force),
            lambda: _there(m),
            "that the new disks are gone",
        )
        m.note(receiving=False)


def _abort(m: "Migration", force: Dict[str, str]) -> None:
    m.plugin("receive-abort", **force)
    for sr in {disk.destination_sr for disk in m.plan.sent} if _there(m) else ():
        # an older database has brought records back without images
        m.destination.xenapi.SR.scan(m.destination.xenapi.SR.get_by_uuid(sr))


def _there(m: "Migration") -> List[str]:
    made = [m.disk(disk.key).get("destination_vdi") for disk in m.plan.sent if not disk.target]
    return [
        "VDI %s is back" % uuid for uuid in made if uuid and Records(m.destination).ref("VDI", uuid)
    ]


def _wanted(disk: "Disk") -> Dict[str, Any]:
    return {
        "key": disk.key,
        "sr": disk.destination_sr,
        "size": disk.size,
        "name_label": disk.name_label,
        "name_description": disk.name_description,
        "type": disk.type,
        "sharable": disk.sharable,
        "other_config": {key: value for key, value in disk.other_config.items() if key != CLAIM},
        "xenstore_data": disk.xenstore_data,
        "target": disk.target,
        "image_format": disk.image_format,
        "tags": list(disk.tags),
        "allow_caching": disk.allow_caching,
        "read_only": disk.read_only,
        "unplugged": disk.unplugged,
        "base": disk.base,
        "base_there": disk.base_there,
        "frozen": bool(disk.snapshot),
        "snapshot_of": disk.snapshot_of,
        "snapshot_time": disk.snapshot_time,
    }
