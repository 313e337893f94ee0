"""What VMs do on one host: start, shut down, and the parts of it that a migration is made of."""
import logging
import os
import queue
import threading
import time

from lab.xenopsd import hooks, wire
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
        threading.Thread(target=self._tell_xapi, daemon=True).start()

    # -- metadata

    def add(self, metadata):
        """Take a VM's metadata, or newer metadata of a VM that does not run; its id."""
        identity = metadata["id"]
        with self.store.lock(identity):
            record = self.store.find(identity)
            if record and record["power_state"] != "Halted":
                raise bad_power_state(record["power_state"], "Halted")
            self.store.save({"id": identity, "metadata": metadata, "power_state": "Halted", "domain": None,
                             "attached": dict((record or {}).get("attached", {})), "role": "", "figures": {}})
        return identity

    def remove(self, identity):
        """Forget a VM that does not run."""
        self._queue(identity)
        with self.store.lock(identity):
            record = self.store.get(identity)
            if record["power_state"] != "Halted":
                raise bad_power_state(record["power_state"], "Halted")
            self.disks.detach_all(record)
            self.store.remove(identity)

    def stat(self, identity):
        """How the VM is: see the contract of VM.stat in server.py."""
        record = self.store.get(identity)
        attached = record["attached"]
        running = self.domains.alive(record["domain"])
        return {
            "power_state": record["power_state"],
            "domid": record["domain"]["domid"] if record["domain"] else -1,
            "disks": [{"device": disk["device"], "vdi": disk["vdi"], "rw": disk["rw"],
                       "plugged": attached.get(disk["device"], {}).get("state") == "active"} for disk in record["metadata"]["disks"]],
            "vifs": [dict(vif, plugged=record["power_state"] == "Running") for vif in record["metadata"].get("vifs", [])],
            "guest": self.domains.status(record["domain"]) if running else {},
            "migration": record["figures"],
        }

    # -- power

    def start(self, identity, task):
        """Start the VM and wait until it runs."""
        with self.store.lock(identity):
            record = self.store.get(identity)
            if record["power_state"] == "Running":
                return
            self.hook("vm-pre-start", record, "none")
            try:
                self.create_domain(record)
                task.progress(0.3)
                disks = self.disks.activate_all(record)
                task.progress(0.6)
                self.domains.run(record["domain"], disks)
            except Exception:
                self.destroy_anyhow(record)
                raise
            self.runs(record)

    def shutdown(self, identity, hard):
        """Shut the VM down; a guest that does not stop within its bound fails a clean one."""
        self._queue(identity)
        with self.store.lock(identity):
            record = self.store.get(identity)
            if record["power_state"] == "Halted":
                return
            reason = "hard-shutdown" if hard else "clean-shutdown"
            self.hook("vm-pre-shutdown", record, reason)
            if not hard:
                self.domains.suspend(record["domain"])
            self.destroy_domain(record)
            self.hook("vm-post-destroy", record, reason)
            self.changed(identity)

    def reboot(self, identity, task, hard):
        """A reboot closes the VM's disks and opens them again; the guest remembers what it was told is safe."""
        with self.store.lock(identity):
            record = self.store.get(identity)
            if record["power_state"] != "Running":
                raise bad_power_state(record["power_state"], "Running")
            reason = "hard-reboot" if hard else "clean-reboot"
            try:
                memory = None if hard else self.domains.suspend(record["domain"])  # a clean one asks the guest first
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
                self.destroy_anyhow(record)
                self.changed(identity)
                raise
            self.runs(record)

    def _queue(self, identity):
        """Wait behind an arrival: it is one operation of the real one's, however many calls it takes here."""
        while True:
            record = self.store.find(identity)
            if not record or record["role"] != "incoming" or not record["domain"]:
                return
            time.sleep(QUEUE)

    # -- the parts

    def hook(self, name, record, reason, identity=None):
        """Run a hook for the VM of a record, by its own id or another one; it is told of the domain only while there is one."""
        extra = ["-vmdomid", str(record["domain"]["domid"])] if record["domain"] else []
        hooks.run(self.root, name, identity or record["id"], reason, extra)

    def create_domain(self, record):
        """Build the VM's domain, paused, without disks."""
        metadata = record["metadata"]
        record["domain"] = self.domains.create(record["id"], self._next_domid(), metadata.get("guest", {}))
        record["power_state"] = "Paused"
        self.store.save(record)

    def runs(self, record):
        """The VM runs: write it down, watch its domain, tell xapi."""
        record["power_state"] = "Running"
        record["role"] = ""
        self.store.save(record)
        self.watch(record)
        self.changed(record["id"])

    def destroy_domain(self, record):
        """End the VM's domain and give its disks back; it is halted afterwards, even if a disk cannot be given back."""
        domain, record["domain"] = record["domain"], None
        try:
            if domain:
                self.domains.destroy(domain)
            self.disks.detach_all(record)
        finally:
            record["power_state"] = "Halted"
            record["role"] = ""
            self.store.save(record)

    def changed(self, identity):
        """Tell xapi, in the background, that this VM changed."""
        self._changed.put(identity)

    def watch(self, record):
        """Notice when the VM's domain ends by itself: then the VM has crashed, and is halted."""
        threading.Thread(target=self._watch, args=(record, record["domain"]), daemon=True).start()

    def recover(self):
        """After a start of xenopsd: find the guests again that run, and end what was under way when it was killed."""
        self.domains.end_unknown([self.store.get(identity)["domain"] for identity in self.store.ids()])
        for identity in self.store.ids():
            record = self.store.get(identity)
            if record["role"] == "incoming" or record["metadata"]["id"] != identity:
                log.warning("VM %s was on its way when xenopsd ended", identity)
                self.destroy_anyhow(record)
                self.store.remove(identity)
            elif record["power_state"] == "Running" and not record["role"] and self.domains.alive(record["domain"]):
                self.watch(record)
            elif record["power_state"] != "Halted":
                log.warning("VM %s did not survive the end of xenopsd", identity)
                self.destroy_anyhow(record)
            self.changed(record["metadata"]["id"])

    def destroy_anyhow(self, record):
        """`destroy_domain` where something has failed already: a disk that cannot be given back is logged."""
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
                self.changed(record["id"])

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
            identity = self._changed.get()
            try:
                wire.call_unix(socket, "/services/xenops-event", "VM.changed", {"id": identity}, EVENT)
            except Exception as error:  # xapi may be away; it asks VM.list when it comes back
                log.warning("xapi did not hear of VM %s: %s: %s", identity, type(error).__name__, error)
