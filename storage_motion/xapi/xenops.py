# SPDX-License-Identifier: LGPL-2.1-only
"""xenopsd, as xapi passes requests on to it: XML-RPC at /services/xenops (docs/facts/xapi.md,
Moving a VM).

Names and encoding are those of xapi-project/xen-api, ocaml/xapi-idl/xen/xenops_interface.ml:
parameters are one struct of named members, `debug_info` among them; a variant without an argument
is its name, one with an argument the pair [name, argument]; a list of pairs whose first is a string
is a struct (rpclib does that), and nothing else is taken for it.
"""

import copy
import http.client
import logging
import time
import urllib.parse
import xmlrpc.client
from typing import Any, Callable, Dict, List, Optional, Tuple

import XenAPI

from storage_motion.errors import TimedOut, Unreachable, XenopsError
from storage_motion.xapi import outage as outages, transport
from storage_motion.xapi.session import NOT_XAPI, reason

SERVICE = "/services/xenops"
END_TIMEOUT = 300.0  # seconds; SM's activation waits 120 s for a gate
POLL = 0.2
MAX_ANSWER = 4 * 1024 * 1024
UNAUTHORIZED = 401  # HTTP statuses
STARTING = 500  # of a xapi that has not read its database yet (seen on the real one)
AWAY = (502, 503)  # xapi says that xenopsd does not answer it
ONCE = ("VM.migrate", "VM.shutdown", "Task.destroy")  # has another effect the second time
PENDING, COMPLETED, FAILED = "Pending", "Completed", "Failed"
GONE = (None, "Halted")  # what `power_state` says of a VM that is not on that host

log = logging.getLogger("sxm")


def incoming(vm: str) -> str:
    """The id (a UUID) that xenopsd gives the copy of a VM that is arriving, until it has arrived
    (xenops_server.ml)."""
    return vm[:24] + "000000000001"


def leaving(vm: str) -> str:
    """The id that xenopsd gives a VM that it moves, from its suspend on."""
    return vm[:24] + "000000000000"


class _SessionEnded(XenopsError):
    """xapi does not know the session any more."""


class _XapiAway(Unreachable):
    """The xapi that would pass a call on does not answer. `sent`: whether xenopsd may have got
    it."""

    def __init__(self, why: str, sent: bool) -> None:
        super(_XapiAway, self).__init__("xenopsd", why)
        self.why = why
        self.sent = sent


class Xenops:
    """The xenopsd of one host. `connect()` gives a connection to that host's xapi; `query`:
    "session_id=..."; `new_query()`, if there is one, gives one in place of that whose session
    has ended, as all do when their xapi is restarted. `outage`, if there is one: calls wait for
    that xapi as those of a session do (xapi/outage.py)."""

    def __init__(
        self,
        connect: Callable[[], http.client.HTTPConnection],
        query: str,
        label: str,
        new_query: Optional[Callable[[], str]] = None,
        outage: Optional[outages.Outage] = None,
    ) -> None:
        self._connect = connect
        self._path = SERVICE + "?" + query
        self._label = label
        self._new_query = new_query
        self._outage = outage

    @property
    def at_once(self) -> "Xenops":
        """The same, for calls that do not wait."""
        found = copy.copy(self)
        found._outage = None
        return found

    @classmethod
    def local(cls, session: "XenAPI.Session", label: str, timeout: float = 60.0) -> "Xenops":
        """That of this host. `label`: what xenopsd's log shows with each request."""

        def query() -> str:
            return urllib.parse.urlencode({"session_id": session.handle})

        def new_query() -> str:
            # XenAPI.Session logs in again when it is told that its session has ended
            session.xenapi.pool.get_all()
            return query()

        return cls(
            lambda: transport.local_connection(timeout),
            query(),
            label,
            new_query,
            getattr(session, "outage", None),
        )

    @classmethod
    def at(
        cls,
        xenops_url: str,
        label: str,
        timeout: float = 60.0,
        new_url: Optional[Callable[[], str]] = None,
        outage: Optional[outages.Outage] = None,
    ) -> "Xenops":
        """That which `xenops_url` names (of `host.migrate_receive`, with its session_id).
        `new_url()`: such a URL, of another session."""

        def query(url: str) -> str:
            return urllib.parse.urlsplit(url).query

        return cls(
            lambda: transport.connection(xenops_url, timeout),
            query(xenops_url),
            label,
            new_url and (lambda: query(new_url())),
            outage,
        )

    def call(self, method: str, **parameters: Any) -> Any:
        """What xenopsd answers. Raises XenopsError([method, error...]) or Unreachable."""
        tries = 0
        while True:
            try:
                answer = self._in_session(method, parameters)
            except _XapiAway as away:
                if self._outage is None or away.sent and method in ONCE:
                    raise
                self._outage.begins(away.why)
                if not self._outage.wait(tries):
                    raise
                tries += 1
            else:
                if self._outage is not None:
                    self._outage.ends()
                return answer

    def _in_session(self, method: str, parameters: Dict[str, Any]) -> Any:
        try:
            return self._ask(method, parameters)
        except _SessionEnded:
            if self._new_query is None:
                raise
        try:
            self._path = SERVICE + "?" + self._new_query()
        except XenAPI.Failure as failure:
            raise Unreachable("xenopsd", "no new session: %s" % failure.details[0])
        except (OSError,) + NOT_XAPI as error:
            raise Unreachable("xenopsd", reason(error))
        return self._ask(method, parameters)

    def _ask(self, method: str, parameters: Dict[str, Any]) -> Any:
        body = xmlrpc.client.dumps(
            (dict(parameters, debug_info=self._label),), method, allow_none=True
        )
        connection = None
        try:
            connection = self._connect()
            connection.request(
                "POST", self._path, body=body.encode("utf-8"), headers={"Content-Type": "text/xml"}
            )
            answer = connection.getresponse()
            text = answer.read(MAX_ANSWER + 1)
            if answer.status == UNAUTHORIZED:
                raise _SessionEnded(method, "its session has ended")
            if answer.status in AWAY:
                raise Unreachable("xenopsd", "HTTP status %d" % answer.status)
            if answer.status == STARTING:
                raise _XapiAway("HTTP status %d" % answer.status, True)
            if answer.status != 200:
                raise XenopsError(method, "HTTP status %d" % answer.status)
            if len(text) > MAX_ANSWER:
                raise XenopsError(method, "an answer of more than %d bytes" % MAX_ANSWER)
            (value,), _ = xmlrpc.client.loads(text, use_builtin_types=True)
        except xmlrpc.client.Fault as fault:
            raise XenopsError(method, str(fault.faultString))
        except transport.CUT as error:
            raise _XapiAway(reason(transport.reset(error)), True)
        except (OSError,) + NOT_XAPI as error:
            if outages.is_away(error):
                raise _XapiAway(reason(error), not isinstance(error, outages.NEVER_SENT))
            raise Unreachable("xenopsd", reason(error))
        finally:
            if connection is not None:
                connection.close()
        return _value(method, value)

    def migrate(
        self,
        vm: str,
        vdi_map: Dict[str, str],
        vif_map: Dict[str, str],
        xenops_url: str,
        compress: bool,
        verify_dest: bool,
        same_host: bool,
    ) -> str:
        """Start to move a VM (its UUID). `vdi_map`: {locator here: locator there}, a locator being
        "SR uuid/location". `vif_map`: {device: bridge there}. Returns the id of xenopsd's task."""
        return self.call(
            "VM.migrate",
            id=vm,
            vdi_map=vdi_map,
            vif_map={device: ["Local", bridge] for device, bridge in vif_map.items()},
            pci_map={},
            xenops_url=xenops_url,
            compress=compress,
            verify_dest=verify_dest,
            localhost_migration=same_host,
        )

    def task(self, task: str) -> Tuple[str, Any]:
        """(state, argument): (PENDING, fraction), (COMPLETED, struct), or (FAILED, error as a list
        of strings)."""
        state = self.call("Task.stat", id=task)["state"]
        name, argument = state if isinstance(state, (list, tuple)) else (state, None)
        if name == FAILED:
            argument = _error(argument)
        return name, argument

    def tasks_of_label(self) -> List[str]:
        """The ids of the tasks that were begun with our label, the oldest first."""
        found = [task for task in self.call("Task.list") if task["dbg"] == self._label]
        return [task["id"] for task in sorted(found, key=lambda task: task["ctime"])]

    def busy(self) -> bool:
        """Whether this xenopsd is at anything that was begun with our label: at the destination, at
        receiving the VM."""
        return any(self.task(task)[0] == PENDING for task in self.tasks_of_label())

    def cancel(self, task: str) -> None:
        """Ask for a task to stop. It then fails, or completes if that was too late."""
        self.call("Task.cancel", id=task)

    def destroy(self, task: str) -> None:
        """Forget a task that has ended."""
        self.call("Task.destroy", id=task)

    def power_state(self, vm: str) -> Optional[str]:
        """ "Running", "Halted", "Suspended" or "Paused"; None when this xenopsd does not know the VM
        (its UUID)."""  # noqa: E501
        try:
            answer = self.call("VM.stat", id=vm)
        except XenopsError as error:
            if "Does_not_exist" in error.details:
                return None
            raise
        # The pair (what the VM is, what state it is in).
        state = answer[1] if isinstance(answer, (list, tuple)) else answer
        return state["power_state"]

    def end(self, vm: str) -> None:
        """End a VM at once, without asking it, whatever state it is in, and forget it; if this
        xenopsd knows it. It waits for what xenopsd is at with that VM. Raises XenopsError,
        Unreachable or TimedOut."""
        if self.power_state(vm) is None:
            return
        log.warning("xenopsd has VM %s: it is ended there", vm)
        task, end = self.call("VM.shutdown", id=vm), time.monotonic() + END_TIMEOUT
        state, argument = self.task(task)
        while state == PENDING:
            if time.monotonic() > end:
                raise TimedOut("xenopsd's shutdown of VM %s" % vm, "%g" % END_TIMEOUT)
            time.sleep(POLL)
            state, argument = self.task(task)
        self.destroy(task)
        if state == FAILED and "Does_not_exist" not in argument:
            raise XenopsError("VM.shutdown", *argument)
        self.forget(vm)

    def export_metadata(self, vm: str) -> str:
        """What xenopsd knows of a VM: a text, of a form of its own (JSON)."""
        return self.call("VM.export_metadata", id=vm)

    def import_metadata(self, text: str) -> None:
        """Have xenopsd know a VM by such a text."""
        self.call("VM.import_metadata", metadata=text)

    def refresh(self, vm: str) -> None:
        """Have xapi look at a VM that this xenopsd knows."""
        self.call("UPDATES.refresh_vm", id=vm)

    def forget(self, vm: str) -> None:
        """Remove what this xenopsd still knows of a VM that does not run here any more."""
        try:
            self.call("VM.remove", id=vm)
        except XenopsError as error:
            if "Does_not_exist" not in error.details and "Bad_power_state" not in error.details:
                raise


def _value(method: str, value: Any) -> Any:
    """The result in xapi's envelope, {Status, Value | ErrorDescription}, or bare."""
    if not isinstance(value, dict) or "Status" not in value:
        return value
    if value["Status"] == "Success":
        return value.get("Value")
    raise XenopsError(method, *_error(value.get("ErrorDescription")))


def _error(argument: Any) -> List[str]:
    """xenopsd's error as a flat list of strings: ["Internal_error", "..."]."""
    if isinstance(argument, dict):  # {code, message}
        return [str(argument[key]) for key in sorted(argument)]
    if not isinstance(argument, (list, tuple)):
        return [str(argument)]
    flat: List[str] = []
    for part in argument:
        flat.extend(_error(part) if isinstance(part, (list, tuple, dict)) else [str(part)])
    return flat
