# SPDX-License-Identifier: LGPL-2.1-only
"""The receivers of a migration, at its destination: each a process, which the journal names, and a
port that is open for it."""

import json
import os
import secrets as tokens
from typing import Any, Collection, Dict, List

from storage_motion import waiting
from storage_motion.dom0 import firewall, launch, root
from storage_motion.dom0.launch import Process
from storage_motion.errors import MotionError, ReceiverFailed
from storage_motion.journal import journal, secret_files
from storage_motion.journal.journal import Journal
from storage_motion.sm import smapi
from storage_motion.wire import control_socket

MODULE = "storage_motion.migration.receiver_process"
LOG = "/var/log/sxm.log"
READY_TIMEOUT = 60.0  # the receiver makes a key and a certificate
ANSWER_TIMEOUT = 15.0
RETIRE_TIMEOUT = 2.0
SPEC = "receive%d"
# Of each disk, what the receiver is told.
RECEIVED = ("vdi", "sr", "size", "socket", "depth", "blank", "read_only")
ANSWERED = ("vdi", "blank", "contents", "images", "holds", "no_base")  # and what the source is


def start(entry: Journal, address: str, made: Dict[str, Dict[str, Any]]) -> Dict[str, Any]:
    """Start one for the disks in `made` ({key: record}), and wait until it listens. What `receive`
    answers."""
    found = entry.entry["migration"]
    number = _next_number(entry)
    ready = os.path.join(journal.run_directory(found), "ready%d.json" % number)
    token = tokens.token_hex(32)
    spec = {
        "migration": found,
        "address": address,
        "token": token,
        "control": _control(found, number),
        "ready": ready,
        "log": root.path(LOG),
        "disks": {key: {name: disk[name] for name in RECEIVED} for key, disk in made.items()},
    }
    secret_files.keep(found, SPEC % number, spec)
    process = launch.start(
        "receiver-%s-%d" % (found, number), launch.python_module(MODULE, _spec(found, number))
    )
    others = entry.entry["receivers"]
    started: Dict[str, Any] = {"number": number, "process": process.to_json(), "keys": sorted(made)}
    entry.write(receivers=others + [started])

    def listening() -> bool:
        if not process.alive():
            raise ReceiverFailed(found, "ended at once; see %s" % LOG)
        return os.path.exists(ready)

    waiting.until(listening, READY_TIMEOUT, "receiver of %s" % found)
    with open(ready) as source:
        answer = json.load(source)
    # Noted before: what is admitted can be found, and closed, by whoever comes after a crash.
    entry.write(receivers=others + [dict(started, port=answer["port"])])
    firewall.open_port(answer["port"])
    return {
        "address": address,
        "port": answer["port"],
        "fingerprint": answer["fingerprint"],
        "token": token,
        "disks": {key: {name: disk[name] for name in ANSWERED} for key, disk in made.items()},
    }


def _next_number(entry: Journal) -> int:
    numbers: List[int] = [one["number"] for one in entry.entry["receivers"]]
    return 1 + max(numbers or [0])


def _spec(migration: str, number: int) -> str:
    return os.path.join(journal.run_directory(migration), SPEC % number + ".json")


def _control(migration: str, number: int) -> str:
    return os.path.join(journal.run_directory(migration), "r%d.ctl" % number)


def retire(entry: Journal, keys: Collection[str]) -> None:
    """The disks `keys` leave their receivers. One that has none left is ended; without courtesy,
    since it may well be stuck.

    When this returns nothing of a `finish` of theirs is under way any more. Raises TimedOut if it
    does not end."""
    for one in entry.entry["receivers"]:
        if set(one["keys"]) <= set(keys):
            _end(entry, one)
    # Their entries stay, and so their numbers are not given away again: a file of an old one is
    # never taken for a new one's.
    entry.write(
        receivers=[
            dict(one, keys=[key for key in one["keys"] if key not in keys])
            for one in entry.entry["receivers"]
        ]
    )
    _end_unnoted(entry)
    smapi.await_commands(
        [entry.entry["disks"][key]["vdi"] for key in keys if entry.entry["disks"][key]["vdi"]]
    )


def _close_port(entry: Journal, one: Dict[str, Any]) -> None:
    """Before its receiver goes: afterwards the port may be another one's. Notes it, so that it is
    closed once."""
    if one.get("port"):
        firewall.close_port(one["port"])
        entry.write(
            receivers=[
                dict(other, port=None) if other["number"] == one["number"] else other
                for other in entry.entry["receivers"]
            ]
        )


def _end(entry: Journal, one: Dict[str, Any]) -> None:
    _close_port(entry, one)
    Process.from_json(one["process"]).stop(RETIRE_TIMEOUT)
    # A child of it looks like it until it has become a command of the storage manager, which is
    # waited for as such.
    for child in launch.running(MODULE, _spec(entry.entry["migration"], one["number"])):
        if not child.gone(RETIRE_TIMEOUT):
            raise ReceiverFailed(
                entry.entry["migration"], "process %d, of its receiver, does not end" % child.pid
            )


def stop(entry: Journal, command: str) -> None:
    """Have all receivers go: `command` "exit" or "abort". One that does not answer is ended all the
    same."""
    for one in entry.entry["receivers"]:
        _close_port(entry, one)
        _stop_one(
            Process.from_json(one["process"]),
            _control(entry.entry["migration"], one["number"]),
            command,
        )
    _end_unnoted(entry)


def _end_unnoted(entry: Journal) -> None:
    """One more receiver may have been started by a plugin that died before it could note that."""
    for orphan in launch.running(MODULE, _spec(entry.entry["migration"], _next_number(entry))):
        orphan.stop()


def _stop_one(process: Process, control: str, command: str) -> None:
    if not process.alive():
        return
    try:
        control_socket.request(control, {"cmd": command}, ANSWER_TIMEOUT)
    except MotionError:
        pass  # one that does not answer is ended all the same
    if not process.gone(ANSWER_TIMEOUT):
        process.stop()
