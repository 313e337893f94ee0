# SPDX-License-Identifier: LGPL-2.1-only
"""Attaching and activating a VM's disks, through xapi's /services/SM on this host's unix socket: a
datapath each (storage.ml).

The real one's requests lie in message-switch's queue while xapi is away, and are handed to the next
xapi if one has died over them. Here they are repeated.
"""

import concurrent.futures
import http.client
import logging
import os
import time
import xmlrpc.client

from lab import patience
from lab.xenopsd import wire
from lab.xenopsd.errors import XenopsError

TIMEOUT = 240.0
"""Seconds for one call: an activation waits up to 120 s for the gate (SM's own bound)."""
AGAIN = 0.2 * patience.TIMES
"""Seconds between two looks whether xapi is there again."""
AT_ONCE = 10
"""So many disks at once, as the real one does."""

log = logging.getLogger("xenopsd")


class Disks:
    """Keeps, in each VM's record under "attached", what stands: {device: {"vdi", "rw", "dp",
    "state", "socket"}} with the name of its datapath, and state "attached" or "active". It is
    written down before the call, so that a crash leaves nothing attached unknown."""

    def __init__(self, root, store):
        self._socket = os.path.join(root, "var/lib/xcp/xapi")
        self._store = store

    def attach(self, record, disk):
        """Attach this disk of the VM, which has a domain, not yet activated."""
        datapath = "vbd/%d/%s" % (record["domain"]["domid"], disk["device"])
        self._note(
            record,
            disk["device"],
            {
                "vdi": disk["vdi"],
                "rw": disk["rw"],
                "dp": datapath,
                "state": "attached",
                "socket": "",
            },
        )
        self._call("VDI.attach", record["attached"][disk["device"]])

    def activate(self, record, disk):
        """Activate it (attaching it first, if it is not): waits for the gate."""
        if disk["device"] not in record["attached"]:
            self.attach(record, disk)
        self._note(record, disk["device"], dict(record["attached"][disk["device"]], state="active"))
        answer = self._call("VDI.activate", record["attached"][disk["device"]])
        self._note(
            record,
            disk["device"],
            dict(record["attached"][disk["device"]], socket=answer["socket"]),
        )

    def hotplug(self, record, disk):
        """Activate it for a VM that runs. Where that fails it stays attached, as by the real one
        (xenops_server_xen.ml, VBD.activate)."""
        try:
            self.activate(record, disk)
        except XenopsError:
            held = record["attached"].get(disk["device"])
            if held:
                self._note(record, disk["device"], dict(held, state="attached"))
            raise

    def activate_all(self, record):
        """Activate all of the VM's disks, the writable ones first; what the guest needs of them to
        run."""
        disks = record["metadata"]["disks"]
        for writable in (True, False):
            _at_once(
                lambda disk: self.activate(record, disk),
                [disk for disk in disks if disk["rw"] == writable],
            )
        return [
            {
                "device": disk["device"],
                "rw": disk["rw"],
                "socket": record["attached"][disk["device"]]["socket"],
            }
            for disk in disks
        ]

    def deactivate_all(self, record):
        """Deactivate every disk of the VM that is active."""
        _at_once(
            lambda device: self._deactivate(record, device),
            [device for device, disk in record["attached"].items() if disk["state"] == "active"],
        )

    def detach_all(self, record):
        """Deactivate and detach every disk of the VM. What SM refuses is logged and left to xapi,
        whose datapath has leaked then."""
        _at_once(lambda device: self._detach(record, device), list(record["attached"]))

    def detach(self, record, device):
        """The same for one."""
        self._detach(record, device)

    def _deactivate(self, record, device):
        disk = record["attached"][device]
        self._call("VDI.deactivate", disk)
        self._note(record, device, dict(disk, state="attached", socket=""))

    def _detach(self, record, device):
        try:
            self._call("DP.destroy", record["attached"][device], allow_leak=False)
        except XenopsError as error:
            log.warning("DP destroy returned unexpected exception: %s", error)
        self._note(record, device, None)

    def _note(self, record, device, disk):
        with self._store.mutex:
            if disk is None:
                record["attached"].pop(device, None)
            else:
                record["attached"][device] = disk
            self._store.save(record)

    def _call(self, method, disk, **members):
        repository, location = disk["vdi"].split("/", 1)
        members = dict(members, dp=disk["dp"], sr=repository, vdi=location, rw=disk["rw"])
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                return wire.call_unix(self._socket, "/services/SM", method, members, TIMEOUT)
            except xmlrpc.client.Fault as error:
                raise XenopsError(
                    "Storage_backend_error",
                    str(error.faultCode),
                    [method, disk["vdi"], error.faultString],
                )
            except wire.RpcFailure as error:
                raise XenopsError(
                    "Storage_backend_error", method, [disk["vdi"], repr(error.description)]
                )
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() > deadline:
                    raise XenopsError(
                        "Storage_backend_error",
                        method,
                        [disk["vdi"], "%s: %s" % (type(error).__name__, error)],
                    )
            time.sleep(AGAIN)


def _at_once(work, items):
    """Do `work` for each item, some at once; all are tried, then the first error is raised."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(work, item) for item in items]
    for future in futures:
        future.result()
