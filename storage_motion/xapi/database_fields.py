# SPDX-License-Identifier: LGPL-2.1-only
"""Two fields of xapi's database that no message of its API gives another value: the VDI of a VBD
that is plugged, as all of a suspended VM and of a checkpoint are, and the image of their memory.

xapi's own migration within a pool writes them (xapi_vm_migrate.ml, intra_pool_vdi_remap: VBD.VDI,
VM.suspend_VDI). A member's xapi writes the master's database by POST /remote_db_access, and so does
this: the first of its two protocols, which is the one that every member uses (db_cache.ml,
Remote_db; xapi.ml sets master_rpc_path to it), and has not changed since xapi 1.249, of 2021, nor
what an unused pool secret is in it. Only the master serves it, and over its own unix socket asks
for no credential (xapi_http.ml, assert_credentials_ok): so the master's plugin does it, and no
secret goes anywhere. What it does to the database is one step: back-references, events and the
file are as of any other change (db_cache_impl.ml, write_field). It takes a reference that leads
nowhere, and looks at no state: that is looked at here. `VM.set_suspend_VDI` would read both images
whole, which have been compared already.

A call of the plugin outlives the worker that has made it, and may come late. So each is of a Turn:
the master refuses one that is of an earlier turn of its migration than it has been told of, and
what is not of a VM that this migration has claimed. It looks and writes one call at a time, so that
nothing of an earlier turn is under way once the next has begun.

Seen on a real xapi: docs/checked-by-hand.md.
"""

import contextlib
import fcntl
import json
import xml.parsers.expat
import xmlrpc.client
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple

from storage_motion import waiting
from storage_motion.dom0 import root
from storage_motion.errors import BadArguments, FieldNotWritten, TimedOut
from storage_motion.uuids import UUID
from storage_motion.xapi import transport
from storage_motion.xapi.records import CLAIM, SUSPENDED, Records
from storage_motion.xapi.session import NOT_XAPI, reason

if TYPE_CHECKING:
    import XenAPI

FUNCTION = "suspended-disk"  # of our plugin, on the master
BEGIN = "begin-suspended-disk"  # the same
# on the master: a line for each turn that was begun there, "migration number"; gone after a reboot,
# as the calls are
TURNS = "/run/sxm-turns"
URI = "/remote_db_access"
TIMEOUT = 60.0  # seconds for an answer: xapi gives it out of its memory
ALONE_TIMEOUT = 2 * TIMEOUT  # seconds to wait for another call
MAX_ANSWER = 64 * 1024


class Field(NamedTuple):
    """A field whose value is a VDI, by its class and name, in XenAPI as in the database."""

    of: str
    name: str

    def value(self, session: "XenAPI.Session", ref: str) -> Any:
        """What it is now, of the object `ref`: a ref."""
        return getattr(getattr(session.xenapi, self.of), "get_" + self.name)(ref)


DISK, MEMORY = Field("VBD", "VDI"), Field("VM", "suspend_VDI")
WRITABLE: Dict[str, Field] = {field.of: field for field in (DISK, MEMORY)}


class Turn(NamedTuple):
    """Of which migration (its id) a write is, and of which go of it, forward or back: each has a
    higher number than those before."""

    migration: str
    number: int

    def arguments(self) -> Dict[str, str]:
        """What our plugin takes for it."""
        return {"migration": self.migration, "turn": str(self.number)}


def begin_turn(session: "XenAPI.Session", turn: Turn) -> None:
    """Have nothing be written any more of this migration's earlier turns. Raises what the call of
    the master's plugin fails with."""
    _on_master(session, BEGIN, turn.arguments())


def _on_master(session: "XenAPI.Session", function: str, arguments: Dict[str, str]) -> None:
    master = Records(session).pool()["master"]
    session.xenapi.host.call_plugin(master, "sxm.py", function, arguments)


def write(session: "XenAPI.Session", turn: Turn, field: Field, ref: str, vdi: str) -> None:
    """Have `field` of the object `ref`, of a suspended VM or a checkpoint, be `vdi` (refs).
    Idempotent. Raises FieldNotWritten, or what the call of the master's plugin fails with."""
    if field.value(session, ref) == vdi:
        return
    arguments = {
        "class": field.of,
        "uuid": getattr(session.xenapi, field.of).get_uuid(ref),
        "vdi": session.xenapi.VDI.get_uuid(vdi),
    }
    _on_master(session, FUNCTION, dict(arguments, **turn.arguments()))
    if field.value(session, ref) != vdi:
        raise FieldNotWritten(field.of, arguments["uuid"], "it is what it was")


# The plugin's, on the master.


def write_here(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """For the source: {"written": true}. `given`: "class", one of WRITABLE, the UUIDs of the
    object, "uuid", and of the VDI, "vdi", and "migration" and "turn". Raises BadArguments, or
    FieldNotWritten: nothing is written of what is not suspended, not claimed by that migration, or
    of an earlier turn of it."""
    problems = _not_uuids(given, "uuid", "vdi") + _no_turn(given)
    if given["class"] not in WRITABLE:
        problems.append("class: is not one of %s" % ", ".join(sorted(WRITABLE)))
    if problems:
        raise BadArguments(*problems)
    with _alone(given["uuid"]):
        return _write_alone(session, WRITABLE[given["class"]], given)


def _write_alone(session: "XenAPI.Session", field: Field, given: Dict[str, str]) -> Dict[str, Any]:
    if int(given["turn"]) < _begun(given["migration"]):
        raise FieldNotWritten(field.of, given["uuid"], "its migration does not ask for it any more")
    ref = getattr(session.xenapi, field.of).get_by_uuid(given["uuid"])
    vdi = session.xenapi.VDI.get_by_uuid(given["vdi"])
    vm = ref if field is MEMORY else session.xenapi.VBD.get_VM(ref)
    state = session.xenapi.VM.get_power_state(vm)
    if state != SUSPENDED:
        raise FieldNotWritten(field.of, given["uuid"], "its VM is %s, not %s" % (state, SUSPENDED))
    of = session.xenapi.VM.get_snapshot_of(vm) if session.xenapi.VM.get_is_a_snapshot(vm) else vm
    if session.xenapi.VM.get_other_config(of).get(CLAIM) != given["migration"]:
        why = "its VM is not claimed by migration %s" % given["migration"]
        raise FieldNotWritten(field.of, given["uuid"], why)
    answer = _post(field, given["uuid"], [field.of, ref, field.name, vdi])
    if answer != ["success", ""]:
        raise FieldNotWritten(field.of, given["uuid"], json.dumps(answer))
    return {"written": True}


def begin_here(_: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """For the source: {}. `given`: "migration" and "turn", which begins. Nothing of an earlier one
    is under way any more, nor will it be. Idempotent. Raises BadArguments or FieldNotWritten."""
    problems = _no_turn(given)
    if problems:
        raise BadArguments(*problems)
    with _alone(given["migration"]):
        with open(root.private_file(TURNS), "a", encoding="ascii") as turns:
            # a new line: where no room was left for the one before, that is torn
            turns.write("\n%s %s\n" % (given["migration"], given["turn"]))
    return {}


def _begun(migration: str) -> int:
    """The turn of a migration that was begun last; 0 if none was."""
    with open(root.private_file(TURNS), encoding="ascii") as turns:
        found = [line.split() for line in turns]
    return max(
        [int(words[1]) for words in found if len(words) == 2 and words[0] == migration] + [0]
    )


@contextlib.contextmanager
def _alone(uuid: str) -> Iterator[None]:
    """One call on this host at a time. Ends with its process. Raises FieldNotWritten."""
    with open(root.private_file(TURNS), encoding="ascii") as turns:

        def taken() -> bool:
            try:
                fcntl.flock(turns, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        try:
            waiting.until(taken, ALONE_TIMEOUT, "another call of the plugin on the master")
        except TimedOut as error:
            raise FieldNotWritten("", uuid, str(error))
        yield


def _not_uuids(given: Dict[str, str], *names: str) -> List[str]:
    return [
        "%s: %r is not a UUID" % (name, given[name][:64])
        for name in names
        if not UUID.match(given[name])
    ]


def _no_turn(given: Dict[str, str]) -> List[str]:
    problems = _not_uuids(given, "migration")
    if not (given["turn"].isdigit() and len(given["turn"]) < 10):
        problems.append("turn: %r is not a number" % given["turn"][:64])
    return problems


def _post(field: Field, uuid: str, arguments: List[str]) -> Any:
    """What xapi's `write_field` answers: ["success", ""], or ["failure", [what, details]] (v1 of
    db_rpc_common). A reference has nothing in it that XML would have escaped."""
    body = _array("write_field", "", _array(*arguments))
    connection = transport.local_connection(TIMEOUT)
    try:
        connection.request("POST", URI, body.encode(), {"Content-Type": "text/xml"})
        answer = connection.getresponse()
        text = answer.read(MAX_ANSWER).decode()
        if answer.status != 200:
            raise FieldNotWritten(field.of, uuid, "POST %s: HTTP status %d" % (URI, answer.status))
        return _value(text)
    except (OSError,) + NOT_XAPI as error:
        raise FieldNotWritten(field.of, uuid, "POST %s: %s" % (URI, reason(error)))
    finally:
        connection.close()


def _array(*items: str) -> str:
    """An array of strings, and of arrays, as XML-RPC writes values."""
    values = [item if item.startswith("<") else "<value>%s</value>" % item for item in items]
    return "<value><array><data>%s</data></array></value>" % "".join(values)


def _value(text: str) -> Any:
    """The value that is written so. Raises ValueError for anything else."""
    whole = "<params><param>%s</param></params>" % text
    try:
        (found,), _ = xmlrpc.client.loads(whole)
    except (xml.parsers.expat.ExpatError, xmlrpc.client.Error, IndexError) as error:
        raise ValueError(str(error))
    return found
