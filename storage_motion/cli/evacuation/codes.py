# SPDX-License-Identifier: LGPL-2.1-only
"""What to do about a failure, by its code: whether the same migration is tried again by itself,
where the VM's data is, and what the administrator does.

The codes are those of storage_motion/errors.py; docs/operations.md ("The codes") says more of
each."""

from typing import Dict, List, NamedTuple

NEVER, RETRY, QUEUE = "never", "retry", "queue"
"""NEVER: it would fail again, or somebody has to look first. RETRY: it is tried again, so often
and no more. QUEUE: it would be refused now only, since others are at it; that is no try."""

UNTOUCHED = "at the source, untouched"
WHOLE = "at the destination, whole"
UNSURE = (
    "at the destination, and perhaps at the source as well: start, stop and delete nothing of it "
    "before you have looked"
)
STAYS = "at the source, and its migration has not ended: nothing of it is deleted"
UNKNOWN = "not known before its host answers: start, stop and delete nothing of it"


class Code(NamedTuple):
    """`again`: NEVER, RETRY or QUEUE; `do`: for the administrator, once it is not tried again;
    `where`: the VM's data."""

    again: str
    do: str
    where: str = UNTOUCHED


LOG = "look for the cause in /var/log/sxm.log of both hosts, then run this command again"
NETWORK = "look at the network and the firewalls between the hosts, then run this command again"
STORAGE = "look at the storage that is named, and at /var/log/SMlog, then run this command again"
RECOVER = "recover it: sxm recover (docs/operations.md, Recover)"
REPORT = "report it, with the logs (docs/operations.md, Take logs for a report)"
WAIT = "wait until that has ended, then run this command again"
CLEAN = "take away what is left: docs/operations.md, SXM_NOT_CLEANED_UP"
CORRECT = "correct what is named, then run this command again"

CODES: Dict[str, Code] = {
    # somebody is at it
    "SXM_ALREADY_MIGRATING": Code(QUEUE, WAIT),
    "SXM_DISK_IN_USE": Code(RETRY, "end what has the disk open, then run this command again"),
    "SXM_DISK_PAUSED": Code(RETRY, WAIT),
    "SXM_ALREADY_MIRRORED": Code(RETRY, WAIT),
    # a process, a connection, or a host that may be better the next time
    "SXM_CONNECTION_LOST": Code(RETRY, NETWORK),
    "SXM_PROTOCOL": Code(RETRY, NETWORK),
    "SXM_PEER_REFUSED": Code(RETRY, NETWORK),
    "SXM_DATA_PATH": Code(RETRY, NETWORK),
    "SXM_UNREACHABLE": Code(RETRY, NETWORK),
    "SXM_MIRROR_BROKEN": Code(RETRY, LOG),
    "SXM_MIRROR_NOT_PROVEN": Code(RETRY, LOG),
    "SXM_NOT_FINISHED": Code(RETRY, LOG),
    "SXM_MOVER_FAILED": Code(RETRY, LOG),
    "SXM_RECEIVER_FAILED": Code(RETRY, LOG),
    "SXM_LAUNCH": Code(RETRY, LOG),
    "SXM_FIREWALL": Code(RETRY, LOG),
    "SXM_COPY_FAILED": Code(RETRY, STORAGE),
    "SXM_NOT_ACTIVE": Code(RETRY, STORAGE),
    "SXM_TAP_CTL": Code(RETRY, STORAGE),
    "SXM_DISK_STUCK": Code(RETRY, STORAGE),
    "SXM_SM_FAULT": Code(RETRY, STORAGE),
    "SXM_TIMED_OUT": Code(RETRY, LOG),
    "SXM_WORKER_DIED": Code(RETRY, LOG),
    "SXM_TAKEN_AWAY": Code(RETRY, "run this command again"),
    "SXM_NOT_DURABLE": Code(RETRY, LOG),
    "SXM_DATABASE": Code(RETRY, LOG),
    "SXM_VM_CHANGED": Code(RETRY, "run this command again"),
    "SXM_VM_NOT_RUNNING": Code(RETRY, "run this command again: it is moved halted"),
    # that would be the same again
    "SXM_BAD_ARGUMENTS": Code(NEVER, CORRECT),
    "SXM_BAD_CREDENTIALS": Code(NEVER, "give the other pool's password, then run this again"),
    "SXM_HOST_IS_SLAVE": Code(NEVER, "give the master's address, then run this command again"),
    "SXM_REFUSED": Code(NEVER, "do what xapi asks for, then run this command again"),
    "SXM_CANCELLED": Code(NEVER, "somebody has cancelled it; run this command again to move it"),
    "SXM_DESTINATION_FULL": Code(NEVER, "make room there, or name another SR"),
    "SXM_DISK_TRACKED": Code(NEVER, "move it with cbt=renew, or end the tracking of its changes"),
    "SXM_IO_ERROR": Code(NEVER, STORAGE),
    "SXM_COPY_DIFFERS": Code(NEVER, STORAGE),
    "SXM_CERTIFICATE_MISMATCH": Code(NEVER, NETWORK),
    "SXM_BAD_IMAGE": Code(NEVER, STORAGE),
    "SXM_IMAGES_UNRELATED": Code(NEVER, STORAGE),
    "SXM_IMAGE_TOOL_FAILED": Code(NEVER, STORAGE),
    "SXM_UNKNOWN_IMAGE_TYPE": Code(NEVER, STORAGE),
    "SXM_BAD_INVENTORY": Code(NEVER, "mend /etc/xensource-inventory of that host"),
    "SXM_BAD_METADATA": Code(NEVER, REPORT),
    "SXM_TASK_FAILED": Code(NEVER, "look xapi's code up, then run this command again"),
    "SXM_ERROR": Code(NEVER, REPORT),
    "SXM_INTERNAL": Code(NEVER, REPORT),
    # a guest may have ended of it, or it is not known how it stands: not without a person
    "SXM_MOVE_FAILED": Code(NEVER, "look whether the VM runs, and start it; then run this again"),
    "SXM_XENOPS": Code(NEVER, RECOVER, STAYS),
    "SXM_UNDECIDED": Code(NEVER, RECOVER, UNKNOWN),
    "SXM_GATE_OPEN": Code(NEVER, RECOVER, UNKNOWN),
    "SXM_DISK_OF_VM": Code(NEVER, RECOVER, STAYS),
    "SXM_WAITS": Code(NEVER, RECOVER, STAYS),
    "SXM_JOURNAL": Code(NEVER, REPORT, UNKNOWN),
    "SXM_JOURNAL_NOT_WRITTEN": Code(NEVER, "make room on that host's disk, then recover", STAYS),
    "SXM_NOT_NOTED": Code(NEVER, "make room on that host's disk, then recover", STAYS),
    "SXM_IMAGE_LEFT": Code(NEVER, "docs/operations.md, SM was killed while it made a disk"),
    "SXM_NO_SUCH_MIGRATION": Code(NEVER, "ask again when all hosts answer: sxm list", UNKNOWN),
    "SXM_DESTINATION_LOST": Code(NEVER, "start the VM at the source"),
    # behind the point of no return: it has moved
    "SXM_ARRIVED_HALTED": Code(NEVER, "start the VM", WHOLE),
    "SXM_NOT_CLEANED_UP": Code(NEVER, CLEAN, WHOLE),
    # of what is asked of a migration, which an evacuation does not do
    "SXM_NOTHING_TO_RESUME": Code(NEVER, REPORT),
    "SXM_NOT_OF_SELFTEST": Code(NEVER, REPORT),
    "SXM_NOT_RUNNING": Code(NEVER, REPORT),
    "SXM_TOO_LATE": Code(NEVER, REPORT),
}

# xapi's own, within SXM_REFUSED, SXM_TASK_FAILED or by themselves.
XAPI: Dict[str, Code] = {
    # three at a host at a time: xapi_vm_migrate.ml, with_migrate
    "TOO_MANY_STORAGE_MIGRATES": Code(QUEUE, WAIT),
    "OTHER_OPERATION_IN_PROGRESS": Code(QUEUE, WAIT),
    "VDI_IN_USE": Code(RETRY, WAIT),
    "HOST_STILL_BOOTING": Code(RETRY, WAIT),
    "CANNOT_CONTACT_HOST": Code(RETRY, NETWORK, UNKNOWN),
    "HOST_OFFLINE": Code(RETRY, NETWORK, UNKNOWN),
}
# Of SXM_WORKER_DIED with a third detail: the migration has not ended.
ALONE = Code(NEVER, RECOVER, STAYS)
# Of SXM_BAD_ARGUMENTS for want of room alone, where the dry run has found some: what others had for
# their snapshots SM gives back some time after they have ended.
SHORT = Code(RETRY, "make room there, then run this command again")
# Of one that has moved, and it is not sure that its data has as a whole, or that it runs once.
DOUBTFUL = Code(NEVER, RECOVER, UNSURE)
OTHER = Code(NEVER, "do what xapi asks for, then run this command again")

# Of the details of SXM_BAD_ARGUMENTS: storage_motion/plan/room.py, checks.py, disk_goals.py.
ROOM = " GiB free, and needs "
MOVING = ("is being moved already by migration", "is being migrated already")
THERE = "every disk is there already"
# Of those of SXM_NOT_CLEANED_UP: storage_motion/migration/xenopsd_leftovers.py, phases/cleanup.py.
DOUBTS = ("is running at the source as well", "was not verified at the destination")


def of(error: List[str]) -> Code:
    """What to do about a XenAPI failure, [code, detail, ...]."""
    code = error[0] if error else "SXM_ERROR"
    if code == "SXM_REFUSED" and len(error) > 2 and error[2].split():
        return XAPI.get(error[2].split()[0], CODES[code])
    if code == "SXM_WORKER_DIED" and len(error) > 3:
        return ALONE
    if says_no_room(error):
        return SHORT
    return CODES.get(code) or XAPI.get(code, OTHER)


def of_moved(error: List[str]) -> Code:
    """The same of what a migration has ended with behind the point of no return; [] where it has
    only left something."""
    if not error:
        return CODES["SXM_NOT_CLEANED_UP"]
    code = CODES.get(error[0])
    if code is None or code.where != WHOLE:
        return DOUBTFUL
    doubts = any(text in detail for detail in error[1:] for text in DOUBTS)
    return DOUBTFUL if doubts else code


def says_moving(error: List[str]) -> bool:
    """Whether a start was refused since the VM is being moved."""
    return error[:1] == ["SXM_ALREADY_MIGRATING"] or (
        error[:1] == ["SXM_BAD_ARGUMENTS"]
        and any(text in detail for detail in error[1:] for text in MOVING)
    )


def says_there(error: List[str]) -> bool:
    """Whether it was refused since no disk has to move any more."""
    return error[:1] == ["SXM_BAD_ARGUMENTS"] and any(THERE in detail for detail in error[1:])


def says_no_room(error: List[str]) -> bool:
    """Whether it was refused for want of room alone."""
    return (
        error[:1] == ["SXM_BAD_ARGUMENTS"]
        and len(error) > 1
        and all(ROOM in detail for detail in error[1:])
    )
