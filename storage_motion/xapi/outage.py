# SPDX-License-Identifier: LGPL-2.1-only
"""A xapi that does not answer for a while: which calls may be made again, for how long, and what is
told of it.

xapi is restarted at any moment, by an update or a crash, and is back after some ten seconds to a
minute. That costs a migration nothing but the wait: the bytes do not go through it.
"""

import errno
import http.client
import logging
import socket
import ssl
import threading
import time
import xmlrpc.client
from typing import TYPE_CHECKING, Any, Callable, Optional, Sequence

if TYPE_CHECKING:
    import XenAPI

BOUND = 120.0  # seconds for which one outage is waited for; after that every call fails at once
FIRST, LONGEST = 0.1, 1.0  # seconds between two tries: the guest may be paused meanwhile
AT_ONCE_TIMEOUT = 10.0  # seconds for an answer to what is only shown
# seconds for one that xapi gives out of its memory: one that hangs (SIGSTOP, a host without memory)
# gives none
QUICK_TIMEOUT = 300.0
BOOTING = "HOST_STILL_BOOTING"
AWAY_STATUSES = (502, 503)  # HTTP: a member whose master does not answer
NEVER_SENT = (ConnectionRefusedError, FileNotFoundError)  # there was nobody to connect to
COLD = (errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE)

# What may be called again if nobody knows whether it was done: by the beginning of a method's name,
# or the whole of it.
READS_OR_SETS = ("get_", "set_", "add_to_", "remove_from_", "assert_")
# what no storage manager, other host or pool has a part in
QUICK = ("get_", "set_", "add_to_", "remove_from_")
QUICK_CLASS = "message."  # files of the master's, and nothing else is asked for them
REPEATABLE = (
    "VDI.destroy",
    "VDI.enable_cbt",
    "VDI.disable_cbt",
    "VBD.destroy",
    "VM.destroy",
    "VBD.eject",
    "VBD.insert",
    "task.create",
    "task.cancel",
    "task.destroy",
    "host.migrate_receive",
    "host.allocate_resources_for_vm",
    "network.attach_for_vm",
    "network.detach_for_vm",
    "VM.pool_migrate_complete",
    "message.get",
    "message.destroy",
    "pool.sync_database",
    "session.logout",
    "SR.scan",
)
REPEATABLE_OF_OURS = (
    "list",
    "status",
    "log",
    "report",
    "installed",
    "receive-status",
    "receive-stop",
    "receive-abort",
    "receive-give",
    "receive-keep",
    "receive-owed",
    "receive-end",
    "receive-track",
    "lost-snapshots",
    "relinking",
    "end-relinking",
    "suspended-disk",
    "begin-suspended-disk",
)
ASYNC = "Async."  # before a method's name: it answers a task
GONE = ("HANDLE_INVALID", "UUID_INVALID")
# what such a call fails with when it was carried out already
DONE = {"destroy": GONE, "eject": ("VBD_IS_EMPTY",), "insert": ("VBD_NOT_EMPTY",)}

log = logging.getLogger("sxm")


def repeatable(method: str, parameters: Sequence[Any]) -> bool:
    """Whether a call may be made again that may have been carried out: it has the same effect
    twice, or its effect shows.

    Tasks are in xapi's memory only: of one that was made in vain nothing is left once xapi has been
    restarted."""
    if method.startswith(ASYNC):
        method = method[len(ASYNC) :]
    if method == "host.call_plugin":
        return tuple(parameters[1:2]) == ("sxm.py",) and parameters[2] in REPEATABLE_OF_OURS
    return method in REPEATABLE or method.rpartition(".")[2].startswith(READS_OR_SETS)


def timeout(method: str, patient: bool) -> Optional[float]:
    """Seconds that the answer to a call may take; None: as long as the session allows, since it may
    be long work. `patient`: whether anybody needs it."""
    if not patient:
        return AT_ONCE_TIMEOUT
    quick = method.startswith(QUICK_CLASS) or method.rpartition(".")[2].startswith(QUICK)
    return QUICK_TIMEOUT if quick else None


def was_done(
    method: str, parameters: Sequence[Any], failure: "XenAPI.Failure", look: Callable[..., Any]
) -> bool:
    """Whether what a repeated call failed with says that the first one was carried out.
    `look(method, *parameters)`: asks xapi."""
    code, name = failure.details[0], method.rpartition(".")[2]
    if name in DONE:
        return code in DONE[name]
    if name.startswith("add_to_") and code == "MAP_DUPLICATE_KEY":
        ref, key, value = parameters
        return look(method.replace(".add_to_", ".get_"), ref).get(key) == value
    return False


def is_away(error: BaseException) -> bool:
    """Whether an exception of a call means that xapi does not answer just now. One that is merely
    slow has not gone."""
    if isinstance(error, xmlrpc.client.ProtocolError):
        return error.errcode in AWAY_STATUSES
    return isinstance(error, (OSError, http.client.HTTPException)) and not isinstance(
        error, (socket.timeout, ssl.SSLError)
    )


def is_cold(error: BaseException) -> bool:
    """Whether a connection has ended that had been idle, as any may that is kept."""
    return (
        isinstance(error, http.client.RemoteDisconnected) or getattr(error, "errno", None) in COLD
    )


class Outage:
    """The times in which one xapi does not answer. Threads may share it."""

    def __init__(self, server: str) -> None:
        """`server`: how the log names it."""
        self._server = server
        self._lock = threading.Lock()
        self._told: Optional[float] = None  # when the log was told
        self._waited: Optional[float] = None  # when the first call began to wait

    def begins(self, why: str) -> None:
        """A call was not answered, for the reason `why`. Told once."""
        with self._lock:
            if self._told is None:
                self._told = time.monotonic()
                log.warning("xapi at %s does not answer: %s", self._server, why)

    def wait(self, tries: int) -> bool:
        """Wait for the next try, after `tries`. False when this outage has been waited for long
        enough."""
        with self._lock:
            if self._waited is None:
                self._waited = time.monotonic()
            left = self._waited + BOUND - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, LONGEST, FIRST * 2 ** min(tries, 10)))
        return True

    def ends(self) -> None:
        """A call was answered."""
        with self._lock:
            told, self._told, self._waited = self._told, None, None
        if told is not None:
            log.warning(
                "xapi at %s answers again, after %.1f s", self._server, time.monotonic() - told
            )
