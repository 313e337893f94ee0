# SPDX-License-Identifier: LGPL-2.1-only
"""Runs a storage manager driver on this host, as xapi does: one XML-RPC call in argv[1], its answer
on stdout.

The argument is the one that xapi builds (ocaml/xapi/sm_exec.ml); the exit status says nothing,
since a driver exits with 0 for faults, too.
"""

import subprocess
import time
import xml.parsers.expat
import xmlrpc.client
from typing import TYPE_CHECKING, Any, Collection, Dict, List, Mapping, Optional, Sequence, Tuple

from storage_motion.dom0 import inventory, launch, root
from storage_motion.errors import SmFault, TimedOut

if TYPE_CHECKING:
    import XenAPI

DRIVERS = "/opt/xensource/sm"
# A driver may wait 120 s for an activation, and a snapshot takes what it takes. Killing one is the
# last resort.
DEFAULT_TIMEOUT = 600.0
# Seconds for commands that somebody who is dead now had begun: a tapdisk is closed, a snapshot
# taken.
COMMANDS_TIMEOUT = 300.0

STANDS_BY = "--stand-by"  # an argument of a command of MirrorSR (sm/standby.py)
# what vdi_receive_abort answers where all that its tapdisk has answered is in the image
CLOSED_IN_ORDER = "closed in order"
AWAY = 488  # the fault of a command of MirrorSR whose xapi has ended under it, or is not there yet

# In other_config of a VDI while its mirror is being set up: the target, a socket in /run/sxm/<id>.
# xapi copies it to the snapshot, by which the snapshot is known as ours, and that of a call that
# was killed is found again.
MIRROR_MARK = "sxm_mirror"
# argument of vdi_copy_open: a guest has the disk open read-only, and it is read beside that
BESIDE_READER = "beside-reader"


def call(
    session: "XenAPI.Session",
    sr_ref: str,
    command: str,
    vdi_ref: Optional[str] = None,
    args: Sequence[str] = (),
    driver_params: Optional[Mapping[str, str]] = None,
    driver: str = "MirrorSR",
    timeout: float = DEFAULT_TIMEOUT,
) -> Any:
    """Run one command of a driver of this host and return its answer: a string, a struct as a dict,
    or None.

    `args`: strings. `driver_params`: {string: string}. Raises SmFault: what the driver answered, or
    why there was no answer (its `code` is None then).
    """
    given = argument(session, sr_ref, command, vdi_ref, args, driver_params)
    process = begin(command, [given], driver)
    return answer(command, outputs(command, process, timeout))


def argument(
    session: "XenAPI.Session",
    sr_ref: str,
    command: str,
    vdi_ref: Optional[str] = None,
    args: Sequence[str] = (),
    driver_params: Optional[Mapping[str, str]] = None,
) -> str:
    """What a driver is given for one command, as `call` has it: an XML-RPC call. Raises SmFault,
    XenAPI.Failure."""
    struct = _parameters(session, sr_ref, command, vdi_ref, args, driver_params)
    return xmlrpc.client.dumps((struct,), command)


def await_commands(vdis: Sequence[str] = (), timeout: Optional[float] = None) -> None:
    """Wait until none of the commands of MirrorSR runs any more that this host is at now; with
    `vdis` (UUIDs), only those for one of these. Raises TimedOut after `timeout` seconds
    (COMMANDS_TIMEOUT).

    A command is a process of its own: it goes on when the worker or receiver that wanted it is
    killed. One that stands by is a receiver's, and ends with it; so it is waited for with the
    `vdis` of a receiver that has ended, and not where those of a dead worker are meant."""
    timeout = COMMANDS_TIMEOUT if timeout is None else timeout
    end = time.monotonic() + timeout
    for process in launch.running(root.path(DRIVERS + "/MirrorSR"), mentioning=vdis):
        if not vdis and STANDS_BY in launch.arguments(process.pid):
            continue
        if not process.gone(max(0.0, end - time.monotonic())):
            raise TimedOut(
                "process %d, a command of the storage manager, to end" % process.pid, "%g" % timeout
            )


def commands(vdi_uuids: Collection[str]) -> List[Tuple[str, launch.Process, Optional[str], Any]]:
    """The commands of SM's drivers, stock ones and ours, that run for one of these VDIs on this
    host just now: [(the VDI's UUID, Process, command, its args)]."""
    found: List[Tuple[str, launch.Process, Optional[str], Any]] = []
    if not vdi_uuids:
        return found  # a receiver asks ten times a second, for hours before any gate is open
    for process in launch.running(mentioning=tuple(vdi_uuids)):
        for argument in launch.arguments(process.pid):
            try:
                (struct,), command = xmlrpc.client.loads(argument)
            except (ValueError, TypeError, xml.parsers.expat.ExpatError, xmlrpc.client.Error):
                continue  # not such a call
            if isinstance(struct, dict) and struct.get("vdi_uuid") in vdi_uuids:
                found.append((struct["vdi_uuid"], process, command, struct.get("args", [])))
    return found


def _parameters(
    session: "XenAPI.Session",
    sr_ref: str,
    command: str,
    vdi_ref: Optional[str],
    args: Sequence[str],
    driver_params: Optional[Mapping[str, str]],
) -> Dict[str, Any]:
    """The struct that xapi would pass: all strings, but for the structs in it and the list
    `args`."""
    api = session.xenapi
    host_ref = api.host.get_by_uuid(inventory.host_uuid())
    parameters: Dict[str, Any] = {
        "host_ref": host_ref,
        "command": command,
        "args": list(args),
        "session_ref": session._session,
        "device_config": _device_config(api, sr_ref, host_ref),
        "sr_ref": sr_ref,
        "sr_uuid": api.SR.get_uuid(sr_ref),
    }
    if driver_params is not None:
        parameters["driver_params"] = dict(driver_params)
    if vdi_ref is not None:
        vdi = api.VDI.get_record(vdi_ref)
        parameters.update(
            vdi_ref=vdi_ref,
            vdi_uuid=vdi["uuid"],
            vdi_location=vdi["location"],
            vdi_on_boot=vdi["on_boot"],
            vdi_allow_caching="true" if vdi["allow_caching"] else "false",
        )
    return parameters


def _device_config(api: Any, sr_ref: str, host_ref: str) -> Dict[str, str]:
    """This host's device_config of the SR, with what xapi adds to it (SRmaster) and what MirrorSR
    needs (type)."""
    for pbd_ref in api.SR.get_PBDs(sr_ref):
        if api.PBD.get_host(pbd_ref) == host_ref:
            break
    else:
        raise SmFault(
            "device_config", None, "this host has no PBD of SR %s" % api.SR.get_uuid(sr_ref)
        )
    config = dict(api.PBD.get_device_config(pbd_ref))
    (pool_ref,) = api.pool.get_all()
    if not api.SR.get_shared(sr_ref) or api.pool.get_master(pool_ref) == host_ref:
        config["SRmaster"] = "true"
    config["type"] = api.SR.get_type(sr_ref)
    return config


def begin(
    command: str,
    arguments: Sequence[str],
    driver: str = "MirrorSR",
    stdin: int = subprocess.DEVNULL,
) -> "subprocess.Popen[bytes]":
    """Begin a driver of this host, with these arguments. Raises SmFault."""
    program = "%s/%s" % (root.path(DRIVERS), driver)
    try:
        return subprocess.Popen(
            [program] + list(arguments), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        raise SmFault(command, None, "cannot run %s: %s" % (program, error.strerror))


def outputs(command: str, process: "subprocess.Popen[bytes]", timeout: float) -> Tuple[str, str]:
    """What a driver has printed, and said on its standard error, when it has ended. Raises SmFault
    if that takes more than `timeout` seconds."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise SmFault(command, None, "the driver did not answer within %d s" % timeout)
    return out.decode(errors="replace"), err.decode(errors="replace")


def answer(command: str, printed: Tuple[str, str]) -> Any:
    """What a driver has answered, by its `outputs`. Raises SmFault."""
    out, err = printed
    try:
        ((answered,), _) = xmlrpc.client.loads(out)
    except xmlrpc.client.Fault as fault:
        raise SmFault(command, fault.faultCode, fault.faultString)
    except (ValueError, xml.parsers.expat.ExpatError, xmlrpc.client.ResponseError):
        raise SmFault(command, None, "not an answer: %r %r" % (out[-500:], err[-500:]))
    return answered
