# SPDX-License-Identifier: LGPL-2.1-only
"""What VMs do on one host: start, shut down, and the parts of it that a migration is made of."""

import json
import logging
import os
import queue
import threading
import time

from lab.xenopsd import hooks, tpm, wire
from lab.xenopsd.disks import Disks
from lab.xenopsd.domain import Domains
from lab.xenopsd.errors import XenopsError, bad_power_state
from lab.xenopsd.files import Files
from lab.xenopsd.store import Store

log = logging.getLogger("xenopsd")

QUEUE = 0.05
EVENT = 30.0
"""Seconds that xapi may take to hear that a VM changed."""


class Host:
    """Everything of one host's xenopsd that its VMs share."""

    def __init__(self, root):
        self.root = root
        self.store = Store(os.path.join(root, "var/lib/xenopsd"), Files(root))
        self.disks = Disks(root, self.store)
        self.domains = Domains(root)
        self._changed = queue.Queue()
        self._rebooting = set()
        threading.Thread(target=self._tell_xapi, daemon=True).start()

    # -- metadata

    def add(self, metadata):
        """Take a VM's metadata, or newer metadata of a VM that is known, in whatever state it is;
        its id."""
        identity = metadata["id"]
        with self.store.lock(identity):
            record = self.store.find(identity) or {
                "id": identity,
                "power_state": "Halted",
                "domain": None,
                "attached": {},
                "role": "",
                "saved": False,
                "figures": {},
            }
            record["metadata"] = metadata
            self.store.save(record)
        return identity

    def export_metadata(self, identity):
        """The VM's metadata, as text; with the state of its domain, if it has one."""
        record = self.store.get(identity)
        domains = (
            {"domains": json.dumps({"power_state": record["power_state"]})}
            if record["domain"]
            else {}
        )
        return json.dumps(dict(record["metadata"], **domains))

    def import_metadata(self, text):
        """Take what `export_metadata` gave; its id. A domain's state that comes with it is
        believed, as by the real one's simulator."""
        metadata = json.loads(text)
        domains = metadata.pop("domains", None)
        known = self.store.find(metadata["id"])
        identity = self.add(metadata)
        if domains and known is None:
            record = self.store.get(identity)
            record["power_state"] = json.loads(domains)["power_state"]
            self.store.save(record)
        return identity

    def remove(self, identity):
        """Forget a VM that does not run."""
        self._queue(identity)
        with self.store.lock(identity):
            record = self.store.get(identity)
            if record["power_state"] in ("Running", "Paused"):
                raise bad_power_state(record["power_state"], "Halted")
            self.disks.detach_all(record)
            self.store.remove(identity)

    def stat(self, identity):
        """How the VM is: see the contract of VM.stat in server.py."""
        record = self.store.get(identity)
        attached = record["attached"]
        running = self.domains.alive(record["domain"])
        return {
            "power_state": "Running" if identity in self._rebooting else record["power_state"],
            "domid": record["domain"]["domid"] if record["domain"] else -1,
            "disks": [
                {
                    "device": disk["device"],
                    "vdi": disk["vdi"],
                    "rw": disk["rw"],
                    "plugged": attached.get(disk["device"], {}).get("state") == "active",
                    "active": disk["device"] in record.get("hotplugged", []),
                }
                for disk in record["metadata"]["disks"]
            ],
            "vifs": [
                dict(vif, plugged=record["power_state"] == "Running")
                for vif in record["metadata"].get("vifs", [])
            ],
            "guest": self.domains.status(record["domain"]) if running else {},
            "migration": record["figures"],
        }

    # -- disks of a VM that runs (xenops_server.ml, VBD_hotplug and VBD_hotunplug)

    def add_disk(self, identity, disk):
        """Take a disk of the VM's, or what is new of it, by its device."""
        with self.store.lock(identity):
            record = self.store.get(identity)
            self._leave_out(record, disk["device"])
            record["metadata"]["disks"].append(disk)
            self.store.save(record)

    def plug_disk(self, identity, device):
        """Activate it. The domain has it then, but this guest's kernel looks for no disks while it
        runs. Where that fails it remains marked as one that the VM shall have (VBD_set_active)."""
        with self.store.lock(identity):
            record = self._running(identity)
            (disk,) = [one for one in record["metadata"]["disks"] if one["device"] == device]
            record["hotplugged"] = sorted({device, *record.get("hotplugged", [])})
            self.store.save(record)
            try:
                self.disks.hotplug(record, disk)
            finally:
                self.signal_disks(identity)

    def unplug_disk(self, identity, device):
        """Take it from the VM; xapi forgets it here once it hears of that (update_vbd)."""
        with self.store.lock(identity):
            record = self._running(identity)
            if device in record["attached"]:
                self.disks.detach(record, device)
            record["hotplugged"] = [one for one in record.get("hotplugged", []) if one != device]
            self.store.save(record)
        self.signal_disks(identity)

    def remove_disk(self, identity, device):
        """Forget a disk that is not plugged."""
        with self.store.lock(identity):
            record = self.store.get(identity)
            if device in record["attached"]:
                raise XenopsError("Device_is_connected")
            self._leave_out(record, device)
            self.store.save(record)

    def _running(self, identity):
        record = self.store.get(identity)
        if record["power_state"] != "Running":
            raise bad_power_state(record["power_state"], "Running")
        return record

    @staticmethod
    def _leave_out(record, device):
        metadata = record["metadata"]
        disks = [disk for disk in metadata["disks"] if disk["device"] != device]
        record["metadata"] = dict(metadata, disks=disks)

    # -- power

    def start(self, identity, task):
        """Start the VM and wait until it runs."""
        with self.store.lock(identity):
            record = self.store.get(identity)
            if record["power_state"] != "Halted":
                raise bad_power_state(record["power_state"], "Halted")
            self.hook("vm-pre-start", record, "none")
            try:
                self.create_domain(record)
                tpm.manufacture(self.root, record["metadata"])
                task.progress(0.3)
                disks = self.disks.activate_all(record)
                task.progress(0.6)
                self.domains.run(record["domain"], disks)
            except Exception:
                self.destroy_anyhow(record)
                raise
            self.runs(record)

    def shutdown(self, identity, delay):
        """Shut the VM down, whatever state it is in. `delay`: seconds that a guest may take for it;
        None: it is not asked."""
        self._queue(identity)
        with self.store.lock(identity):
            record = self.store.get(identity)
            reason = "hard-shutdown" if delay is None else "clean-shutdown"
            self.hook("vm-pre-shutdown", record, reason)
            if delay is not None and record["domain"]:
                self.domains.suspend(record["domain"])
            self.destroy_domain(record)
            self.hook("vm-post-destroy", record, reason)
            self.signal(identity)

    def reboot(self, identity, task, delay):
        """A reboot closes the VM's disks and opens them again; the guest remembers what it was told
        is safe. It is said to run all the while."""
        with self.store.lock(identity):
            record = self.store.get(identity)
            if record["power_state"] != "Running":
                raise bad_power_state(record["power_state"], "Running")
            reason = "hard-reboot" if delay is None else "clean-reboot"
            self._rebooting.add(identity)
            try:
                # a clean one asks the guest first
                memory = None if delay is None else self.domains.suspend(record["domain"])
                self.hook("vm-pre-shutdown", record, reason)
                memory = memory or self.domains.suspend(record["domain"])
                self.destroy_domain(record)
                self.hook("vm-post-destroy", record, reason)
                self.hook("vm-pre-reboot", record, "none")
                self.hook("vm-pre-start", record, "none")  # a reboot is a shutdown and a start
                self.create_domain(record)
                self.domains.restore(record["domain"], memory)
                task.progress(0.5)
                self.domains.run(record["domain"], self.disks.activate_all(record))
            except Exception:
                self._rebooting.discard(identity)
                self.destroy_anyhow(record)
                self.signal(identity)
                raise
            self._rebooting.discard(identity)
            self.runs(record)

    def _queue(self, identity):
        """Wait behind an arrival: it is one operation of the real one's, however many calls it
        takes here."""
        while True:
            record = self.store.find(identity)
            if not record or record["role"] != "incoming" or not record["domain"]:
                return
            time.sleep(QUEUE)

    # -- the parts

    def hook(self, name, record, reason, identity=None):
        """Run a hook for the VM of a record, by its own id or another one; it is told of the domain
        only while there is one."""
        extra = ["-vmdomid", str(record["domain"]["domid"])] if record["domain"] else []
        hooks.run(self.root, name, identity or record["id"], reason, extra)

    def create_domain(self, record):
        """Build the VM's domain, paused, without disks."""
        metadata = record["metadata"]
        if self.domains.alive(record["domain"]):
            raise XenopsError("Already_exists", "domain", record["id"])
        record["domain"] = self.domains.create(
            record["id"], self._next_domid(), metadata.get("guest", {})
        )
        record["power_state"], record["saved"] = "Paused", False
        self.store.save(record)

    def runs(self, record):
        """The VM runs: write it down, watch its domain, tell xapi."""
        record["power_state"] = "Running"
        record["role"] = ""
        self.store.save(record)
        self.watch(record)
        self.signal(record["id"])

    def destroy_domain(self, record):
        """End the VM's domain and give its disks back; it is halted afterwards, even if a disk
        cannot be given back: or suspended, if its memory has been saved, since what is known of it
        is then kept."""
        domain, record["domain"] = record["domain"], None
        record["hotplugged"] = []
        try:
            if domain:
                self.domains.destroy(domain)
            self.disks.detach_all(record)
        finally:
            record["power_state"] = "Suspended" if record["saved"] else "Halted"
            record["role"] = ""
            self.store.save(record)

    def signal(self, identity):
        """Tell xapi, in the background, that this VM changed: unless there is none
        (VM_DB.signal)."""
        self._signal("VM.changed", identity)

    def signal_disks(self, identity):
        """The same, of its disks alone (VBD_DB.signal)."""
        self._signal("VBD.changed", identity)

    def refresh(self, identity):
        """UPDATES.refresh_vm"""
        self.signal(identity)
        self.signal_disks(identity)

    def _signal(self, event, identity):
        if self.store.find(identity) is not None:
            self._changed.put((event, identity))

    def check_state(self, identity):
        """VM_check_state, which follows every operation that failed: a VM whose domain has ended,
        or is suspended, is shut down. Raises Does_not_exist."""
        with self.store.lock(identity):
            record = self.store.get(identity)
            if record["domain"] and (
                record["power_state"] == "Suspended" or not self.domains.alive(record["domain"])
            ):
                log.warning("VM %s has unexpectedly suspended or ended; shutting down", identity)
                self.destroy_domain(record)
        self.signal(identity)

    def watch(self, record):
        """Notice when the VM's domain ends by itself: then the VM has crashed, and is halted."""
        threading.Thread(target=self._watch, args=(record, record["domain"]), daemon=True).start()

    def recover(self):
        """After a start of xenopsd: find the guests again that run, and end what was under way when
        it was killed."""
        self.domains.end_unknown(
            [self.store.get(identity)["domain"] for identity in self.store.ids()]
        )
        for identity in self.store.ids():
            record = self.store.get(identity)
            record["role"] = ""
            try:
                self.check_state(identity)
            except XenopsError:
                log.exception("VM %s", identity)
            if record["power_state"] == "Running":
                self.watch(record)

    def destroy_anyhow(self, record):
        """`destroy_domain` where something has failed already: a disk that cannot be given back is
        logged."""
        try:
            self.destroy_domain(record)
        except XenopsError:
            log.exception("disks of VM %s stay attached", record["id"])

    def _watch(self, record, domain):
        self.domains.wait(domain)
        with self.store.lock(record["id"]):
            if record["domain"] is domain and record["power_state"] == "Running":
                log.warning("VM %s: its guest ended by itself", record["id"])
                self.destroy_anyhow(record)
                self.signal(record["id"])

    def _next_domid(self):
        path = os.path.join(self.root, "var/lib/xenopsd/domid")
        with self.store.mutex:
            domid = 1
            if os.path.exists(path):
                with open(path) as stream:
                    domid = int(stream.read()) + 1
            with open(path, "w") as stream:
                stream.write(str(domid))
            return domid

    def _tell_xapi(self):
        socket = os.path.join(self.root, "var/lib/xcp/xapi")
        while True:
            event, identity = self._changed.get()
            try:
                wire.call_unix(socket, "/services/xenops-event", event, {"id": identity}, EVENT)
            except Exception as error:  # xapi may be away; it asks VM.list when it comes back
                log.warning(
                    "xapi did not hear of VM %s: %s: %s", identity, type(error).__name__, error
                )
