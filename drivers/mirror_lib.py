# SPDX-License-Identifier: LGPL-2.1-only
"""The operations that MirrorSR adds to a stock SR, and its main program.

Every process may be killed at any line, so every command may be repeated, and can be undone by
another:

    killed                          leaves                                 put right by
    vdi_mirror_start                other_config:sxm_mirror on the VDI     vdi_mirror_start with the same target: answers
      before its snapshot                                                  the snapshot if the mirror is attached, else
      after its snapshot            the same on the snapshot too; maybe    destroys it and begins anew. Or: vdi_mirror_stop,
                                    the mirror, attached                   and destroy the snapshots that have the key
    vdi_mirror_stop                 maybe the tapdisk paused               vdi_mirror_stop
    vdi_copy_open, vdi_copy_close   a record in /run/sxm/disks; maybe      either, again
                                    tags in sm_config and a tapdisk
    vdi_receive_start               the gate shut; maybe a tapdisk         vdi_receive_start (same answer), or _abort
    vdi_receive_finish              the tapdisk closed, the gate shut      vdi_receive_finish. Once the gate is open a
                                    or open                                tapdisk here is sm's, and is left alone
      while it stands by, or waits  the same, the gate shut                the same
      for the word to open
    vdi_receive_open_again          the gate shut or open                  vdi_receive_open_again
    vdi_receive_abort               the gate shut                          vdi_receive_abort
    vdi_let_go                      sm's tag of this host                  vdi_let_go
    vdi_go_on                       maybe the tapdisk paused               vdi_go_on
    vdi_end_pause                   nothing                                vdi_end_pause
    vdi_relinking                   nothing                                vdi_relinking
    vdi_data_end                    nothing                                vdi_data_end
    vdi_end_relinking               nothing                                vdi_end_relinking
    vdi_lost_snapshots              nothing                                vdi_lost_snapshots
    sr_remove_unnamed               maybe the image still                  sr_remove_unnamed
    sr_copy_close                   the record; maybe the tapdisk          sr_copy_close

The same holds of one whose xapi ends under it, which is the fault AWAY; vdi_mirror_start then has
the guest go on first, and vdi_mirror_stop also takes away sm's own `paused`, if its vdi_snapshot
has left that (sm/disks/pauses.py).

A guest whose tapdisk a killed vdi_mirror_stop left paused waits until the command is repeated; the
window is some milliseconds. A tap-ctl that is killed itself may leave a tapdisk without an image.
"""  # noqa: E501

import http.client
import json
import os
import socket
import sys
import traceback
import xmlrpc.client
from typing import Any, Callable, Dict, Optional, Tuple, Type

import XenAPI

from storage_motion import errors
from storage_motion.dom0 import images, vhd
from storage_motion.sm import smapi, standby, stock_sm
from storage_motion.sm.disks import guard, pauses, relinking, unnamed
from storage_motion.sm.disks.copied import CopiedDisk, close_lost
from storage_motion.sm.disks.disk import Disk
from storage_motion.sm.disks.filled import FilledDisk
from storage_motion.sm.disks.mirrored import MirroredDisk

SRCommand = stock_sm.module("SRCommand")
util = stock_sm.module("core.util")
xs_errors = stock_sm.module("core.xs_errors")

# The faults of these operations, above the numbers of sm's own table; whatever else went wrong is
# GENERAL_FAULT.
FAULTS: Dict[Type[errors.MotionError], int] = {
    errors.NotActive: 480,
    errors.AlreadyMirrored: 481,
    errors.MirrorNotProven: 482,
    errors.DiskInUse: 483,
    errors.DiskPaused: 484,
    errors.DiskStuck: 485,
    errors.UnknownImageType: 486,
    errors.ImagesUnrelated: 487,
    errors.DiskTracked: 490,
    errors.Unreachable: smapi.AWAY,
}
GENERAL_FAULT = 489


# What xapi, or a member of its pool, says while it is being restarted. 401: XenAPI's own, for a
# session that is gone with its xapi.
AWAY_FAILURES = ("HOST_STILL_BOOTING", "CANNOT_CONTACT_HOST", "HOST_OFFLINE")
NO_SESSION = 401
SERVER_ERROR = 500


class MirrorFault(xs_errors.SRException):
    """One of the product's errors as a fault of the driver: its number, and its code and details as
    the text."""

    def __init__(self, error: errors.MotionError) -> None:
        super(MirrorFault, self).__init__(str(error))
        self.errno = FAULTS.get(type(error), GENERAL_FAULT)


class MirrorOperations(object):
    """What MirrorSR adds to a stock SR class. Each method answers one of COMMANDS, with a string or
    None."""

    def mirror_start(self, vdi_uuid: str, target: str) -> str:
        """Mirror an active disk to a unix socket: the uuid of the snapshot."""
        return MirroredDisk(self, vdi_uuid).start(target)

    def mirror_stat(self, vdi_uuid: str) -> str:
        """JSON {"state": "mirroring", "broken" or "none", "outstanding": n}"""
        return json.dumps(MirroredDisk(self, vdi_uuid).stat())

    def mirror_stop(self, vdi_uuid: str) -> None:
        """Detach the mirror."""
        MirroredDisk(self, vdi_uuid).stop()

    def go_on(self, vdi_uuid: str) -> None:
        """Have the guest of a disk without a mirror go on, if sm has left its tapdisk paused."""
        MirroredDisk(self, vdi_uuid).go_on()

    def copy_open(self, vdi_uuid: str, how: str = "") -> str:
        """Open a frozen disk to be read: JSON {"socket": NBD unix socket, "depth": requests in
        flight on a connection with it}; with smapi.BESIDE_READER through the tapdisk of a guest
        that has it open read-only."""
        disk = CopiedDisk(self, vdi_uuid)
        beside = how == smapi.BESIDE_READER
        return json.dumps(disk.open_beside_reader() if beside else disk.open())

    def copy_close(self, vdi_uuid: str) -> None:
        """Undo copy_open."""
        CopiedDisk(self, vdi_uuid).close()

    def copy_close_lost(self, vdi_uuid: str) -> None:
        """The same where xapi does not know the VDI any more."""
        close_lost(self, vdi_uuid)

    def extents(self, vdi_uuid: str, base_uuid: str = "") -> str:
        """JSON {"size": bytes, "extents": [[offset, length], ...]}"""
        return json.dumps(CopiedDisk(self, vdi_uuid).extents(base_uuid))

    def receive_start(self, vdi_uuid: str) -> str:
        """Open a disk that is to receive, behind the gate: JSON {"socket": NBD unix socket,
        "depth", "blank": bool}"""
        return json.dumps(FilledDisk(self, vdi_uuid).start())

    def receive_finish(self, vdi_uuid: str, *how: str) -> None:
        """Close it and open the gate; with standby.WHEN_TOLD it waits for a word before each, and
        guard.READ_ONLY says that the VM will have it so."""
        disk = FilledDisk(self, vdi_uuid, guard.READ_ONLY in how)
        if standby.WHEN_TOLD not in how:
            disk.finish()
            return
        disk.expect_finish()
        if standby.told_to_close():
            disk.finish(standby.told_to_open)
        else:
            raise errors.NotFinished("nobody has said that the disk may be closed")

    def receive_open_again(self, vdi_uuid: str, how: str = "") -> Optional[str]:
        """Open a gate again that an older database of xapi's has shut, for who waits there to
        write, or to read if guard.READ_ONLY says that the VM has it so: "opened" if it was."""
        disk = FilledDisk(self, vdi_uuid, how == guard.READ_ONLY)
        return "opened" if disk.open_again() else None

    def receive_abort(self, vdi_uuid: str) -> Optional[str]:
        """Close it and leave the gate shut: smapi.CLOSED_IN_ORDER if so all that was answered is
        there."""
        return smapi.CLOSED_IN_ORDER if FilledDisk(self, vdi_uuid).abort() else None

    def let_go(self, vdi_uuid: str) -> None:
        """Deactivate and detach what sm has activated here for a VM that is not here any more."""
        Disk(self, vdi_uuid).let_go()

    def end_pause(self, vdi_uuid: str, host_key: str) -> str:
        """On the SR's master, for the host with that key in sm_config: JSON, whether nobody is at
        the disk; what sm has left of a pause is ended."""
        return json.dumps(pauses.end_for(Disk(self, vdi_uuid), host_key))

    def relinking(self, vdi_uuid: str) -> str:
        """On the SR's master: whether sm has left its `relinking` on the disk: see
        relinking.state."""
        return relinking.state(Disk(self, vdi_uuid))

    def data_end(self, vdi_uuid: str) -> Optional[str]:
        """Where the data of an accessible VHD ends, in bytes: to which SM shrinks it on LVM when it
        becomes a base. None for an image of another type, or one that was just being written to."""
        tapped = Disk(self, vdi_uuid).tapped
        if tapped.get_tap_type() != images.VHD:
            return None
        try:
            return str(vhd.data_end(tapped.target.get_vdi_path()))
        except errors.BadImage as error:  # it is in use, and its table may be torn
            util.SMlog("data_end %s: %s" % (vdi_uuid, error))
            return None

    def end_relinking(self, vdi_uuid: str) -> str:
        """What `relinking` answers; a mark that was left is taken away."""
        return relinking.end(Disk(self, vdi_uuid))

    def lost_snapshots(self, vdi_uuid: str, since: str) -> str:
        """JSON: the snapshots for a mirror that xapi, which ended, has not noted as such: see
        unnamed.snapshots_of."""
        return json.dumps(unnamed.snapshots_of(self, vdi_uuid, float(since)))

    def remove_unnamed(self, size: str, since: str) -> Optional[str]:
        """Remove the image of `size` bytes that a `vdi_create` has left behind since then: its
        uuid, or None."""
        return unnamed.remove(self, int(size), float(since))


# command -> (method of MirrorOperations, how many arguments it may have)
COMMANDS: Dict[str, Tuple[str, Tuple[int, ...]]] = {
    "vdi_mirror_start": ("mirror_start", (1,)),
    "vdi_mirror_stat": ("mirror_stat", (0,)),
    "vdi_mirror_stop": ("mirror_stop", (0,)),
    "vdi_go_on": ("go_on", (0,)),
    "vdi_copy_open": ("copy_open", (0, 1)),
    "vdi_copy_close": ("copy_close", (0,)),
    "vdi_extents": ("extents", (0, 1)),
    "vdi_receive_start": ("receive_start", (0,)),
    "vdi_receive_finish": ("receive_finish", (0, 1, 2)),
    "vdi_receive_open_again": ("receive_open_again", (0, 1)),
    "vdi_receive_abort": ("receive_abort", (0,)),
    "vdi_let_go": ("let_go", (0,)),
    "vdi_end_pause": ("end_pause", (1,)),
    "vdi_relinking": ("relinking", (0,)),
    "vdi_data_end": ("data_end", (0,)),
    "vdi_end_relinking": ("end_relinking", (0,)),
    "vdi_lost_snapshots": ("lost_snapshots", (1,)),
}

# The same for an operation on the SR as a whole, which is called without a VDI.
SR_COMMANDS: Dict[str, Tuple[str, Tuple[int, ...]]] = {
    "sr_remove_unnamed": ("remove_unnamed", (2,)),
    "sr_copy_close": ("copy_close_lost", (1,)),
}

# The operations that attach a disk to write to it, with what sm has for such a call's argument.
WRITABLE = {"receive_start": "true"}


class MirrorCommand(SRCommand.SRCommand):
    """A call of MirrorSR: one of COMMANDS, which take the locks they need themselves, or one of the
    stock driver."""

    def parse(self) -> None:
        """As the stock one. A command of ours is kept from the stock driver, which is loaded as by
        SR.from_uuid."""
        SRCommand.SRCommand.parse(self)
        self.operation, counts = dict(COMMANDS, **SR_COMMANDS).get(self.cmd, (None, ()))
        if self.operation:
            self.subject = () if self.cmd in SR_COMMANDS else (self.params.get("vdi_uuid"),)
            if None in self.subject or len(self.params["args"]) not in counts:
                raise xs_errors.XenError(
                    "BadRequest",
                    opterr="%s takes %s %s arguments"
                    % (
                        self.cmd,
                        "a VDI and" if self.subject else "an SR and",
                        " or ".join(map(str, counts)),
                    ),
                )
            self.cmd = None
            self.params["command"] = "nop"
            # the stock driver's attach looks there for whether the disk will be written to
            self.arguments, self.params["args"] = (
                self.params["args"],
                [WRITABLE.get(self.operation, "false")],
            )

    def run(self, sr: Any) -> Optional[str]:
        """The answer as XML-RPC text, or None. Raises SRException."""
        try:
            return SRCommand.SRCommand.run(self, sr)
        except errors.MotionError as error:
            raise MirrorFault(error)

    def _run_locked(self, sr: Any) -> Optional[str]:
        if not self.operation:
            return SRCommand.SRCommand._run_locked(self, sr)
        try:
            util.SMlog("%s %s %s" % (self.operation, self.subject, self.arguments))
            answer = getattr(sr, self.operation)(*(self.subject + tuple(self.arguments)))
        finally:
            sr.cleanup()
        return None if answer is None else xmlrpc.client.dumps((answer,), "", True)


def is_away(error: BaseException) -> bool:
    """Whether an exception of a call of xapi means that it does not answer, or is not the one any
    more that has our session."""
    if isinstance(error, XenAPI.Failure):
        return error.details[0] in AWAY_FAILURES
    if isinstance(error, xmlrpc.client.ProtocolError):
        return error.errcode >= SERVER_ERROR
    if isinstance(error, xmlrpc.client.Fault):
        return error.faultCode == NO_SESSION
    return isinstance(error, (OSError, http.client.HTTPException)) and not isinstance(
        error, socket.timeout
    )


def tell_outages() -> None:
    """From here on a call of xapi, of ours or sm's in this process, raises Unreachable if xapi has
    ended, or is not there yet."""
    ask = XenAPI.Session.xenapi_request

    def request(session: "XenAPI.Session", method: str, params: Tuple[Any, ...]) -> Any:
        try:
            return ask(session, method, params)
        except Exception as error:
            if is_away(error):
                raise errors.Unreachable("xapi", "%s: %s" % (error.__class__.__name__, error))
            raise

    XenAPI.Session.xenapi_request = request


def run(driver: Callable[[MirrorCommand, str], Any], driver_info: Dict[str, Any]) -> None:
    """The main program, like sm's SRCommand.run, which runs no commands but its own. Exits with 0,
    as that does."""
    stands_by = sys.argv[1:2] == [smapi.STANDS_BY]
    if stands_by:
        argument = standby.argument_of_call()
        if argument is None:
            sys.exit(0)
        sys.argv[1:] = [argument]
    command = MirrorCommand(driver_info)
    try:
        command.parse()
        if command.operation:
            tell_outages()
        command.run_statics()
        sr = driver(command, command.sr_uuid)
        sr.direct = True
        answer = command.run(sr)
        print(util.return_nil() if answer is None else answer)
    except xmlrpc.client.ProtocolError:
        print(xs_errors.XenError("APIProtocolError", opterr=traceback.format_exc()).toxml())
    except errors.Unreachable as error:
        util.logException(driver_info["name"])
        print(MirrorFault(error).toxml())
    except xs_errors.SRException as error:
        util.logException(driver_info["name"])
        print(error.toxml())
    except Exception as error:  # the interface's catch-all: fault 1200
        util.logException(driver_info["name"])
        print(xmlrpc.client.dumps(xmlrpc.client.Fault(1200, str(error)), "", True))
    if stands_by:
        # Its answer is there, and its end is waited for while a guest is suspended: a Python that
        # tidies up first takes as long as all that it has done since it was told to open.
        # sm's command has no `params` at all where it could not be parsed (SRCommand.py, parse)
        standby.finish(getattr(command, "params", {}).get("session_ref"))
        os._exit(0)
    sys.exit(0)
