"""Attaching and activating a VM's disks, through xapi's /services/SM on this host's unix socket."""
import concurrent.futures
import http.client
import os
import xmlrpc.client

from lab.xenopsd import wire
from lab.xenopsd.errors import XenopsError

TIMEOUT = 240.0
"""Seconds for one call: an activation waits up to 120 s for the gate (SM's own bound)."""
AT_ONCE = 10
"""So many disks at once, as the real one does."""


class Disks:
    """Keeps, in each VM's record under "attached", what stands: {device: {"vdi", "rw", "state", "socket"}} with state
    "attached" or "active". It is written down before the call, so that a crash leaves nothing attached unknown."""

    def __init__(self, root, store):
        self._socket = os.path.join(root, "var/lib/xcp/xapi")
        self._store = store

    def attach(self, record, disk):
        """Attach this disk of the VM, not yet activated."""
        self._note(record, disk["device"], {"vdi": disk["vdi"], "rw": disk["rw"], "state": "attached", "socket": ""})
        self._call("VDI.attach", disk["vdi"], disk["rw"], vm=record["id"])

    def activate(self, record, disk):
        """Activate it (attaching it first, if it is not): waits for the gate."""
        if disk["device"] not in record["attached"]:
            self.attach(record, disk)
        self._note(record, disk["device"], dict(record["attached"][disk["device"]], state="active"))
        answer = self._call("VDI.activate", disk["vdi"], disk["rw"])
        self._note(record, disk["device"], dict(record["attached"][disk["device"]], socket=answer["socket"]))

    def activate_all(self, record):
        """Activate all of the VM's disks, the writable ones first; what the guest needs of them to run."""
        disks = record["metadata"]["disks"]
        for writable in (True, False):
            _at_once(lambda disk: self.activate(record, disk), [disk for disk in disks if disk["rw"] == writable])
        return [{"device": disk["device"], "rw": disk["rw"], "socket": record["attached"][disk["device"]]["socket"]} for disk in disks]

    def deactivate_all(self, record):
        """Deactivate every disk of the VM that is active."""
        _at_once(lambda device: self._deactivate(record, device),
                 [device for device, disk in record["attached"].items() if disk["state"] == "active"])

    def detach_all(self, record):
        """Deactivate and detach every disk of the VM."""
        self.deactivate_all(record)
        _at_once(lambda device: self._detach(record, device), list(record["attached"]))

    def _deactivate(self, record, device):
        disk = record["attached"][device]
        self._call("VDI.deactivate", disk["vdi"], disk["rw"])
        self._note(record, device, dict(disk, state="attached", socket=""))

    def _detach(self, record, device):
        disk = record["attached"][device]
        self._call("VDI.detach", disk["vdi"], disk["rw"])
        self._note(record, device, None)

    def _note(self, record, device, disk):
        with self._store.mutex:
            if disk is None:
                record["attached"].pop(device, None)
            else:
                record["attached"][device] = disk
            self._store.save(record)

    def _call(self, method, locator, writable, **members):
        repository, location = locator.split("/", 1)
        try:
            return wire.call_unix(self._socket, "/services/SM", method, dict(members, sr=repository, vdi=location, rw=writable), TIMEOUT)
        except xmlrpc.client.Fault as error:
            raise XenopsError("Storage_backend_error", str(error.faultCode), [method, locator, error.faultString])
        except wire.RpcFailure as error:
            raise XenopsError("Storage_backend_error", method, [locator, repr(error.description)])
        except (OSError, http.client.HTTPException) as error:
            raise XenopsError("Storage_backend_error", method, [locator, "%s: %s" % (type(error).__name__, error)])


def _at_once(work, items):
    """Do `work` for each item, some at once; all are tried, then the first error is raised."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(work, item) for item in items]
    for future in futures:
        future.result()
