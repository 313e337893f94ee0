# SPDX-License-Identifier: LGPL-2.1-only
"""The methods of xenopsd, and its life.

The names and encodings are xenops_interface.ml's; what the lab has of its own is said in the table.
VM.stat answers {"power_state", "domid", "disks": [{"device", "vdi", "rw", "plugged", "active"}],
"vifs": [...], "guest": counters, "migration": figures}. A VBD is named by its VM and its device.
"""

import logging
import os

from lab import patience
from lab.xenopsd import receiving, sending, suspending, wire
from lab.xenopsd.errors import XenopsError, encode_any, internal
from lab.xenopsd.tasks import Tasks
from lab.xenopsd.vms import Host

log = logging.getLogger("xenopsd")

_MAPS = ("vdi_map", "vif_map", "pci_map")
"""Lists of pairs with a string first: rpclib takes a struct for them, and no array."""
_OPTIONAL = ("delay",)


class Xenopsd:
    """Answers calls; one per host."""

    def __init__(self, root):
        self.host = Host(root)
        self.tasks = Tasks()
        host, now, later = self.host, self._now, self._later
        self._methods = {
            "query": now(
                lambda: {
                    "name": "lab",
                    "vendor": "Storage XenMotion",
                    "version": "1",
                    "features": [],
                    "instance_id": str(os.getpid()),
                }
            ),
            "VM.add": now(host.add, "metadata"),
            "VM.remove": now(host.remove, "id"),
            "VM.stat": now(host.stat, "id"),
            "VM.exists": now(lambda identity: host.store.find(identity) is not None, "id"),
            "VM.list": now(
                lambda: [
                    [host.store.get(identity)["metadata"], host.stat(identity)]
                    for identity in host.store.ids()
                ]
            ),
            "VM.start": later(lambda task, identity: host.start(identity, task), "id"),
            "VM.shutdown": later(
                lambda task, identity, delay: host.shutdown(identity, delay), "id", "delay"
            ),
            "VM.reboot": later(
                lambda task, identity, delay: host.reboot(identity, task, delay), "id", "delay"
            ),
            "VM.suspend": later(
                lambda task, identity, disk: suspending.suspend(host, identity, disk), "id", "disk"
            ),
            "VM.resume": later(
                lambda task, identity, disk: suspending.resume(host, identity, disk), "id", "disk"
            ),
            "VM.migrate": later(
                lambda task, identity, vdi_map, vif_map, pci_map, url, compress, verify, localhost: (  # noqa: E501
                    sending.migrate(host, task, identity, vdi_map, vif_map, url)
                ),
                "id",
                "vdi_map",
                "vif_map",
                "pci_map",
                "xenops_url",
                "compress",
                "verify_dest",
                "localhost_migration",
            ),
            "VBD.add": now(host.add_disk, "id", "disk"),
            "VBD.plug": later(
                lambda task, identity, device: host.plug_disk(identity, device), "id", "device"
            ),
            "VBD.unplug": later(
                lambda task, identity, device: host.unplug_disk(identity, device), "id", "device"
            ),
            "VBD.remove": now(host.remove_disk, "id", "device"),
            "VM.export_metadata": now(host.export_metadata, "id"),
            "UPDATES.refresh_vm": now(host.refresh, "id"),
            "VM.import_metadata": now(
                lambda metadata: receiving.import_metadata(host, metadata), "metadata"
            ),
            # the lab's own, instead of the real one's PUTs
            "VM.receive_connect": now(lambda identity: receiving.connect(host, identity), "id"),
            "VM.receive_prepare": later(
                lambda task, identity: receiving.prepare(host, identity), "id"
            ),
            "VM.receive_memory": now(
                lambda identity, memory, marks: receiving.take_memory(
                    host, identity, memory, marks
                ),
                "id",
                "memory",
                "marks",
            ),
            "VM.receive_tpm": now(
                lambda identity, contents: receiving.take_tpm(host, identity, contents),
                "id",
                "contents",
            ),
            "VM.receive_finish": later(
                lambda task, identity, final: receiving.finish(host, identity, final),
                "id",
                "final_id",
            ),
            "VM.receive_abort": now(lambda identity: receiving.abort(host, identity), "id"),
            "Task.stat": now(lambda identity: self.tasks.get(identity).encode(), "id"),
            "Task.list": now(lambda: [task.encode() for task in self.tasks.all()]),
            "Task.cancel": now(lambda identity: self.tasks.get(identity).cancelled.set(), "id"),
            "Task.destroy": now(self.tasks.destroy, "id"),
        }

    def answer(self, method, members):
        """The answer to one call, as the bytes of an XML-RPC response. Raises
        wire.UnknownMethod."""
        if method not in self._methods:
            raise wire.UnknownMethod(method)
        try:
            return wire.success(self._methods[method](members))
        except XenopsError as error:
            log.info("%s answers %s", method, error)
            return wire.failure(error.encode())
        except Exception as error:  # a bug here must not leave the caller without an answer
            log.exception("%s failed", method)
            return wire.failure(encode_any(error))

    @staticmethod
    def _members(method_members, names):
        for name in ("debug_info",) + names:
            if name not in method_members and name not in _OPTIONAL:
                raise _marshal_error("Expecting named argument '%s'" % name)
            if name in _MAPS and not isinstance(method_members[name], dict):
                raise _marshal_error("Unhandled")
        return [method_members.get(name) for name in names]

    def _now(self, function, *names):
        """A method that is done when it is answered."""
        return lambda members: function(*self._members(members, names))

    def _later(self, function, *names):
        """A method that answers a task."""

        def start(members):
            arguments = self._members(members, names)
            return self.tasks.start(
                members["debug_info"], lambda task: function(task, *arguments)
            ).id

        return start


def _marshal_error(text):
    """How rpclib refuses parameters."""
    return internal('Idl.MarshalError("%s")' % text)


def serve(root):
    """Serve on R/run/xenopsd.sock until killed."""
    path = os.path.join(root, receiving.SOCKET)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    xenopsd = Xenopsd(root)
    xenopsd.host.recover()
    server = wire.UnixServer(path, xenopsd.answer)
    log.info("serving on %s", path)
    server.serve_forever(poll_interval=0.5 * patience.TIMES)
