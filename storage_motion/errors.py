# SPDX-License-Identifier: LGPL-2.1-only
"""What can go wrong, as types. Each reaches the user as a XenAPI failure: a stable code, then its
details."""

from typing import Any, List, Optional


class MotionError(Exception):
    """Something that this product found wrong. `code` is stable: scripts may compare it."""

    code = "SXM_ERROR"

    def __init__(self, *details: object) -> None:
        """`details`: strings, in the order in which the failure lists them after its code."""
        super(MotionError, self).__init__(*details)
        self.details = [str(detail) for detail in details]

    def failure(self) -> List[str]:
        """The XenAPI error description: [code, detail, ...]."""
        return [self.code] + self.details

    def __str__(self) -> str:
        return "%s: %s" % (self.code, ", ".join(self.details))


class BadArguments(MotionError):
    """One detail for each wrong argument: its name, what is wrong with it, what would be right."""

    code = "SXM_BAD_ARGUMENTS"


class Refused(MotionError):
    """[host and VM, what xapi says: its code and details, what to do]: xapi would not move the VM
    there."""

    code = "SXM_REFUSED"


class DataPathError(MotionError):
    """Something wrong on the way of the bytes, between the source's tapdisk and the
    destination's."""

    code = "SXM_DATA_PATH"


class ProtocolError(DataPathError):
    """A peer said something that its protocol does not allow."""

    code = "SXM_PROTOCOL"


class ConnectionLost(DataPathError):
    """A peer has gone, or did not answer within its bound."""

    code = "SXM_CONNECTION_LOST"


class PeerRefused(DataPathError):
    """The other side understood, and said no. Detail: its reason."""

    code = "SXM_PEER_REFUSED"


class RequestFailed(DataPathError):
    """A disk answered a request with an error. `errno`: its number; `tag`: what the request was
    remembered by."""

    code = "SXM_IO_ERROR"

    def __init__(self, number: int, detail: str, tag: Any = None) -> None:
        super(RequestFailed, self).__init__(detail)
        self.errno = number
        self.tag = tag


class CertificateMismatch(DataPathError):
    """The receiver's certificate is not the one that its host named. Details: expected, found
    (SHA-256)."""

    code = "SXM_CERTIFICATE_MISMATCH"


class CopyDiffers(DataPathError):
    """What the destination reads back is not what the source has. Details: offset, length in
    bytes."""

    code = "SXM_COPY_DIFFERS"


class MirrorBroken(DataPathError):
    """The mirror has been closed, and the guest runs on alone. Detail: why."""

    code = "SXM_MIRROR_BROKEN"


class NotFinished(DataPathError):
    """A disk cannot be handed over yet, or never: its mirror did not end cleanly, its copy is not
    verified, or what was verified may not be in the image."""

    code = "SXM_NOT_FINISHED"


# What decides (control) and what talks to xapi.


class NoSuchMigration(MotionError):
    """[migration]: no journal of it on this host."""

    code = "SXM_NO_SUCH_MIGRATION"


class AlreadyMigrating(MotionError):
    """[VM uuid, who]: somebody else has claimed the VM."""

    code = "SXM_ALREADY_MIGRATING"


class Cancelled(MotionError):
    """[migration]: the administrator asked for it."""

    code = "SXM_CANCELLED"


class VmNotRunning(MotionError):
    """[VM, its power state]: a mirror that has broken cannot be made anew, since there is nothing
    to mirror."""

    code = "SXM_VM_NOT_RUNNING"


class VmChanged(MotionError):
    """[VM, what has changed, ...]: it is not any more what was planned with. Migrate it again."""

    code = "SXM_VM_CHANGED"


class NotOfSelftest(MotionError):
    """[what, the selftest's id, why]: a selftest keeps its hands off what is not its own."""

    code = "SXM_NOT_OF_SELFTEST"


class NothingToResume(MotionError):
    """[migration, its state]: it does not wait for anything."""

    code = "SXM_NOTHING_TO_RESUME"


class NotRunning(MotionError):
    """[migration, its state]: it has ended, so there is nothing to change."""

    code = "SXM_NOT_RUNNING"


class TooLate(MotionError):
    """[migration, phase]: past the point of no return, so nothing can be taken back."""

    code = "SXM_TOO_LATE"


class DestinationFull(MotionError):
    """[source VDI, why]: the destination has no space left for the disk. Trying again would not
    make any."""

    code = "SXM_DESTINATION_FULL"


class CopyFailed(MotionError):
    """[source VDI, why]"""

    code = "SXM_COPY_FAILED"


class MoverFailed(MotionError):
    """[source VDI, why]: the mover does not run, does not answer, or refused what it was asked."""

    code = "SXM_MOVER_FAILED"


class ReceiverFailed(MotionError):
    """[migration, why]"""

    code = "SXM_RECEIVER_FAILED"


class ImageLeft(MotionError):
    """[SR, and what may be left, why]: an image that no VDI names may have been left there, and
    cannot be told for sure, so it is not removed."""

    code = "SXM_IMAGE_LEFT"


class TakenAway(MotionError):
    """[migration, what of it is not there, ...]: the destination has taken away disks that the
    source counts on, as a recovery there does. It receives no further ones."""

    code = "SXM_TAKEN_AWAY"


class FirewallFailed(MotionError):
    """[command, what it said]: dom0's firewall was not changed."""

    code = "SXM_FIREWALL"


class BadInventory(MotionError):
    """[why]: /etc/xensource-inventory does not tell which host this is."""

    code = "SXM_BAD_INVENTORY"


class GateOpen(MotionError):
    """[migration, what may be in use at the destination: a VDI, or a VM that has arrived]: so it is
    not taken away."""

    code = "SXM_GATE_OPEN"


class Undecided(MotionError):
    """[what is not known]: neither end is safe to go to. Nothing has been undone, nothing
    finished."""

    code = "SXM_UNDECIDED"


class MoveFailed(MotionError):
    """[VM, why]: xenopsd did not bring the VM to the destination."""

    code = "SXM_MOVE_FAILED"


class MoveCutShort(MoveFailed):
    """The same, as the destination's xapi was restarted before the guest was suspended: it may be
    tried again."""


class FieldNotWritten(MotionError):
    """[class, UUID, why]: xapi's database has not another disk or memory image for what is
    suspended (xapi/database_fields.py)."""

    code = "SXM_DATABASE"


class NotDurable(MotionError):
    """[why]: it is not proven that a pool's database is on disk, so a crash of xapi may take back
    what protects the VM."""

    code = "SXM_NOT_DURABLE"


class ArrivedHalted(MotionError):
    """[VM]: it is at the destination with all its data, and does not run: it ended there, or could
    not go on."""

    code = "SXM_ARRIVED_HALTED"


class NotCleanedUp(MotionError):
    """[what is left, ...]: the VM has moved, and this could not be taken away behind it."""

    code = "SXM_NOT_CLEANED_UP"


class TimedOut(MotionError):
    """[what was waited for, seconds]"""

    code = "SXM_TIMED_OUT"


class WorkerDied(MotionError):
    """[migration, phase, and, while it is at no end, what happens next]: its worker has died."""

    code = "SXM_WORKER_DIED"


class JournalError(MotionError):
    """[path, why]: not a journal that this version can trust."""

    code = "SXM_JOURNAL"


class JournalNotWritten(MotionError):
    """[path, why]: the journal is as it was before. Nothing of the migration is done, nor undone,
    until it can be written again."""

    code = "SXM_JOURNAL_NOT_WRITTEN"


class NotNoted(MotionError):
    """[path, why]: a file that a host keeps beside the journals can be neither read, written nor
    removed. What it is for was not done."""

    code = "SXM_NOT_NOTED"


class BadMetadata(MotionError):
    """[why]: an exported VM that is refused or not understood."""

    code = "SXM_BAD_METADATA"


class XenopsError(MotionError):
    """[method, error, ...]: xenopsd refused or failed."""

    code = "SXM_XENOPS"


class Unreachable(MotionError):
    """[address, why]: no xapi answers there."""

    code = "SXM_UNREACHABLE"


class LaunchFailed(MotionError):
    """[name, why]: a process of ours did not start."""

    code = "SXM_LAUNCH"


# What runs dom0's own programs.


class SmFault(MotionError):
    """[command, code, text]: a storage manager driver answered with a fault; `fault` is its number.

    `fault` is None where there was no answer at all.
    """

    code = "SXM_SM_FAULT"

    def __init__(self, command: str, fault: Optional[int], text: str) -> None:
        super(SmFault, self).__init__(command, "" if fault is None else fault, text)
        self.command = command
        self.fault = fault
        self.text = text


class UnknownImageType(MotionError):
    """[type, those that are known]: nothing here can read such an image."""

    code = "SXM_UNKNOWN_IMAGE_TYPE"


class ImagesUnrelated(MotionError):
    """[path, path]: two images share no part of their chains, so there is no difference between
    them to tell."""

    code = "SXM_IMAGES_UNRELATED"


class BadImage(MotionError):
    """[path, why]: an image, or one below it, that cannot be read, is torn, or contradicts
    itself."""

    code = "SXM_BAD_IMAGE"


class ImageToolFailed(MotionError):
    """[program, command, path, what it said]"""

    code = "SXM_IMAGE_TOOL_FAILED"


class NotActive(MotionError):
    """[VDI]: it has no tapdisk on this host."""

    code = "SXM_NOT_ACTIVE"


class AlreadyMirrored(MotionError):
    """[VDI, target]: its tapdisk mirrors to somebody else's target."""

    code = "SXM_ALREADY_MIRRORED"


class MirrorNotProven(MotionError):
    """[VDI, target, statistics]: the snapshot was taken (and is undone), but the tapdisk shows no
    mirror."""

    code = "SXM_MIRROR_NOT_PROVEN"


class DiskOfVm(MotionError):
    """[VDI, who has it]: by all that the destination had noted it had made that disk, and was about
    to take it away. Nothing is taken away."""

    code = "SXM_DISK_OF_VM"


class DiskInUse(MotionError):
    """[VDI, by what]"""

    code = "SXM_DISK_IN_USE"


class DiskPaused(MotionError):
    """[VDI, by what]: an operation of the storage manager, or of somebody else, holds it."""

    code = "SXM_DISK_PAUSED"


class DiskTracked(MotionError):
    """[VDI]: its changed blocks are tracked, so it cannot be mirrored."""

    code = "SXM_DISK_TRACKED"


class DiskStuck(MotionError):
    """[what has not happened within its bound]"""

    code = "SXM_DISK_STUCK"


class TapCtlError(MotionError):
    """[command line, exit code, what it said on stderr]: tap-ctl failed. `errno`: its exit code,
    which is an errno.

    ETIMEDOUT also where tap-ctl had to be killed since it did not end; the tapdisk may have done,
    or yet do, what it was asked. One that was to open an image is killed as well.
    """

    code = "SXM_TAP_CTL"

    def __init__(self, command: str, number: int, text: str) -> None:
        super(TapCtlError, self).__init__(command, number, text)
        self.errno = number


class BadCredentials(MotionError):
    """[url]: user name or password are not those of that pool."""

    code = "SXM_BAD_CREDENTIALS"


class HostIsSlave(MotionError):
    """[url, address of the master]"""

    code = "SXM_HOST_IS_SLAVE"


class TaskFailed(MotionError):
    """[code, detail, ...] of what xapi ended the task with."""

    code = "SXM_TASK_FAILED"

    def failure(self) -> List[str]:
        """xapi's own error, when it gave one."""
        return self.details or [self.code]


class DestinationLost(MotionError):
    """[VM]: it is at the source. What it has written since it went over, if it did, is lost with
    the destination."""

    code = "SXM_DESTINATION_LOST"


class Waits(MotionError):
    """[what for]: recovery can go on only then."""

    code = "SXM_WAITS"


# What these stop goes neither forward nor back: it stays where it is, for a recovery
STOPPING = (Undecided, JournalNotWritten)
