# SPDX-License-Identifier: LGPL-2.1-only
"""What the storage manager's modules share: its log, its exceptions, processes, this host, XML-RPC
answers."""

import contextlib
import os
import subprocess
import sys
import time
import traceback
import uuid
import xmlrpc.client

import XenAPI

import lab_dom0
from sm.core import xs_errors


class SMException(Exception):
    """Base of the storage manager's own exceptions; a driver turns them into a XenError of the
    command's kind."""


class CommandException(SMException):
    """A command that failed: `code` is its exit status (errno, for the storage programs) or minus a
    signal."""

    def __init__(self, code, cmd="", reason="exec failed"):
        self.code = code
        self.cmd = cmd
        self.reason = reason
        super(CommandException, self).__init__(
            "%s: %s" % (os.strerror(code) if code > 0 else code, reason)
        )


class SRBusyException(SMException):
    """The SR could not be locked."""


def SMlog(message, ident="SM"):
    """Write to the storage manager's log, /var/log/SMlog."""
    log = lab_dom0.path("/var/log/SMlog")
    os.makedirs(os.path.dirname(log), exist_ok=True)
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    with open(log, "a") as out:
        for line in str(message).split("\n"):
            out.write("%s %s: [%d] %s\n" % (stamp, ident, os.getpid(), line))


def logException(tag):
    """Log the exception being handled, with where it came from."""
    SMlog("***** %s: EXCEPTION %s" % (tag, "".join(traceback.format_exception(*sys.exc_info()))))


def doexec(cmdlist):
    """Run a program: its exit status (minus a signal), what it printed and what it complained of.
    Raises OSError if it cannot be begun."""
    SMlog(cmdlist)
    process = subprocess.Popen(
        cmdlist,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    out, err = process.communicate()
    return process.returncode, out, err


def pread(cmdlist):
    """Run a program and return what it printed. Raises CommandException."""
    try:
        status, out, err = doexec(cmdlist)
    except OSError as error:
        raise CommandException(error.errno, str(cmdlist), error.strerror)
    if status != 0:
        raise CommandException(status, str(cmdlist), err.strip())
    return out


pread2 = pread


@contextlib.contextmanager
def failing_as(code):
    """A program that fails meanwhile is the error `code` of xs_errors."""
    try:
        yield
    except CommandException as error:
        raise xs_errors.XenError(code, opterr=str(error))


def gen_uuid():
    """A new random uuid, as text."""
    return str(uuid.uuid4())


def default(obj, attr, fn):
    """The attribute of `obj`, or `fn()` where it has none (or an empty one)."""
    return getattr(obj, attr, None) or fn()


def to_plain_string(obj):
    """`obj` as text; None stays None."""
    return None if obj is None else str(obj)


def pathexists(path):
    """Whether there is anything at `path`, a dangling link included."""
    return os.path.lexists(path)


def roundup(divisor, value):
    """`value` rounded up to a multiple of `divisor`, at least one."""
    return max(1, -(-value // divisor)) * divisor


def get_fs_size(path):
    """Size in bytes of the file system that holds `path`."""
    stat = os.statvfs(path)
    return stat.f_frsize * stat.f_blocks


def get_fs_utilisation(path):
    """Bytes in use in the file system that holds `path`."""
    stat = os.statvfs(path)
    return stat.f_frsize * (stat.f_blocks - stat.f_bfree)


def _inventory(key):
    with open(lab_dom0.path("/etc/xensource-inventory")) as lines:
        for line in lines:
            if line.startswith(key + "="):
                return line.split("'")[1]
    raise xs_errors.XenError("APILocalhost", opterr="no %s in the inventory" % key)


def get_this_host():
    """The uuid of this host."""
    return _inventory("INSTALLATION_UUID")


def get_localhost_ref(session):
    """The ref of this host."""
    return session.xenapi.host.get_by_uuid(get_this_host())


get_this_host_ref = get_localhost_ref


def get_master_ref(session):
    """The ref of the pool's master."""
    (pool,) = session.xenapi.pool.get_all()
    return session.xenapi.pool.get_master(pool)


def is_master(session):
    """Whether this host is its pool's master."""
    pool = session.xenapi.pool.get_all()[0]
    return session.xenapi.pool.get_master(pool) == get_localhost_ref(session)


def attached_as(sm_config):
    """How a VDI with this sm_config is active somewhere: "RW", "RO", or None if nowhere."""
    for key, value in sm_config.items():
        if key.startswith("host_") and value in ("RW", "RO"):
            return value
    return None


def list_VDI_records_in_sr(sr):
    """The records of xapi's VDIs in an SR object: ref -> record."""
    ref = sr.session.xenapi.SR.get_by_uuid(sr.uuid)
    return sr.session.xenapi.VDI.get_all_records_where('field "SR" = "%s"' % ref)


def isInvalidVDI(failure):
    """Whether a XenAPI failure says that the VDI does not exist."""
    return isinstance(failure, XenAPI.Failure) and failure.details[0] in (
        "HANDLE_INVALID",
        "UUID_INVALID",
    )


def set_dirty(session, sr_ref):
    """Note in xapi's database that the SR should be looked over."""
    try:
        session.xenapi.SR.add_to_other_config(sr_ref, "dirty", "")
    except XenAPI.Failure as failure:
        if failure.details[0] != "MAP_DUPLICATE_KEY":
            raise


def isLegalXMLString(text):
    """Whether XML can carry `text`."""
    return all(
        char in "\t\n\r"
        or 0x20 <= ord(char) <= 0xD7FF
        or 0xE000 <= ord(char) <= 0xFFFD
        or ord(char) >= 0x10000
        for char in text
    )


_SECRETS = ("password", "cifspassword", "chappassword", "incoming_chappassword")


def hidePasswdInParams(params, section):
    """A copy of a driver's parameters whose `section` has its passwords hidden, for the log."""
    hidden = dict(params)
    hidden[section] = {
        key: "******" if key in _SECRETS else value for key, value in params[section].items()
    }
    return hidden


def sr_get_capability(sr_uuid, session):
    """What the driver of an SR's type can do, as xapi has it: a list."""
    sm_type = session.xenapi.SR.get_type(session.xenapi.SR.get_by_uuid(sr_uuid))
    return [
        name
        for record in session.xenapi.SM.get_all_records().values()
        if record["type"] == sm_type
        for name in record["capabilities"]
    ]


def sr_get_driver_info(driver_info):
    """The XML-RPC answer to sr_get_driver_info."""
    answer = {
        key: driver_info[key]
        for key in (
            "name",
            "description",
            "vendor",
            "copyright",
            "driver_version",
            "required_api_version",
        )
    }
    answer["capabilities"] = list(driver_info["capabilities"])
    answer["configuration"] = [
        {"key": key, "description": text} for key, text in driver_info["configuration"]
    ]
    return xmlrpc.client.dumps((answer,), "", True)


def return_nil():
    """The XML-RPC answer without a value."""
    return xmlrpc.client.dumps((None,), "", True, allow_none=True)
