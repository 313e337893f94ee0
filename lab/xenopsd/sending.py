# SPDX-License-Identifier: LGPL-2.1-only
"""The source's side of VM.migrate, in the order of xenops_server.ml (VM_migrate)."""

import contextlib
import http.client
import json
import logging
import os
import time
import xmlrpc.client

from lab import patience
from lab.xenopsd import process, tpm, wire
from lab.xenopsd.errors import XenopsError, bad_power_state, internal
from lab.xenopsd.figures import Figures

log = logging.getLogger("xenopsd")

CALL = 300.0
POLL = 0.05 * patience.TIMES
LOST = 20.0 * patience.TIMES
"""Seconds for which the destination may not answer before it is given up."""


class Remote:
    """The destination's xenopsd, at the URL that its xapi gave; over a connection with itself, once
    that has handed it over."""

    def __init__(self, url, debug_info):
        self._url = url
        self._debug_info = debug_info
        self._connection = None

    def connect(self, arriving):
        """From here on no xapi is needed, as with the real one's PUT: `arriving`, the VM's id
        there."""
        self._connection = self.call("VM.receive_connect", id=arriving)

    def call(self, method, **members):
        """Call it; raises XenopsError."""
        members = dict(members, debug_info=self._debug_info)
        try:
            if self._connection:
                return wire.call_unix(self._connection, "/", method, members, CALL)
            return wire.call_url(self._url, method, members, CALL)
        except wire.RpcFailure as error:
            raise XenopsError.decode(error.description)
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise XenopsError(
                "Failed_to_contact_remote_service",
                "%s: %s: %s" % (method, type(error).__name__, error),
            )

    def perform(self, method, **members):
        """Call a method that answers a task, and wait for it; the task's result."""
        identity = self.call(method, **members)
        heard = time.monotonic()
        while True:
            try:
                state = self.call("Task.stat", id=identity)["state"]
                heard = time.monotonic()
            except XenopsError as error:
                if (
                    error.name != "Failed_to_contact_remote_service"
                    or time.monotonic() - heard > LOST
                ):
                    raise
                state = ["Pending", 0.0]
            if state[0] == "Completed":
                self.call("Task.destroy", id=identity)
                return state[1].get("result")
            if state[0] == "Failed":
                raise XenopsError.decode(state[1])
            time.sleep(POLL)


def temporary_id(identity, kind):
    """The id of a VM's copy while it moves: `kind` "0" at the source, "1" at the destination."""
    return "%s00000000000%s" % (identity[:24], kind)


def mapped_metadata(metadata, identity, vdi_map, vif_map):
    """The VM's metadata for the destination: under another id, with its disks and VIFs mapped."""
    networks = {device: network[1] for device, network in vif_map.items()}
    disks = [dict(disk, vdi=vdi_map.get(disk["vdi"], disk["vdi"])) for disk in metadata["disks"]]
    moved = [
        {"device": old["device"], "source": old["vdi"], "destination": new["vdi"]}
        for old, new in zip(metadata["disks"], disks)
    ]
    vifs = [
        dict(vif, bridge=networks.get(vif["device"], vif["bridge"]))
        for vif in metadata.get("vifs", [])
    ]
    return dict(metadata, id=identity, disks=disks, vifs=vifs, moved=moved)


def migrate(host, task, identity, vdi_map, vif_map, url):
    """Move the VM; raises XenopsError. If that is before its suspend the VM runs on. Behind it, and
    before the VM has its temporary id, it is shut down here. From then on nobody does anything
    about it here: it stays suspended under that id, of which xapi knows nothing."""
    with host.store.lock(identity), host.store.alias(identity, temporary_id(identity, "0")):
        record = host.store.get(identity)
        if record["power_state"] != "Running":
            raise bad_power_state(record["power_state"], "Running")
        try:
            host.hook("vm-pre-migrate", record, "source")
            metadata = mapped_metadata(
                record["metadata"], temporary_id(identity, "1"), vdi_map, vif_map
            )
            with _connection(host.root, metadata):
                _send(host, task, record, Remote(url, task.debug_info), metadata)
            _forget(host, record, identity)
        except Exception:
            _check_states(host, identity, temporary_id(identity, "0"))
            raise


def _check_states(host, *identities):
    """What trigger_cleanup_after_failure does, in this order: the first that does not exist ends
    it. So in a move to another host that failed behind the renaming nothing is done; where both
    hosts are one, the copy that has arrived has the VM's id, and the second is checked, too."""
    try:
        for identity in identities:
            host.check_state(identity)
    except XenopsError as error:
        log.error("cleaning up failed: %s", error)


@contextlib.contextmanager
def _connection(root, metadata):
    """A file that stands for the connection which the real one keeps open all the while, and whose
    end the destination sees even if no call gets through to it any more."""
    path = os.path.join(root, "run", "xenopsd-sends-%s" % metadata["id"])
    metadata["source"] = {
        "pid": os.getpid(),
        "started": process.start_time(os.getpid()),
        "connection": path,
    }
    with open(path, "w"):
        pass
    try:
        yield
    finally:
        os.unlink(path)


def _send(host, task, record, remote, metadata):
    identity, arriving = record["id"], metadata["id"]
    remote.call("VM.import_metadata", metadata=json.dumps(metadata))
    figures = Figures()
    try:
        task.progress(0.1)
        remote.connect(arriving)
        remote.perform("VM.receive_prepare", id=arriving)
        task.progress(0.5)
        figures.mark("suspend")
        memory = host.domains.suspend(record["domain"])
    except Exception:
        _abort(remote, arriving)
        raise
    _hand_over(host, record, remote, arriving, memory, figures, identity)


def _hand_over(host, record, remote, arriving, memory, figures, identity):
    figures.mark("quiet")
    record["power_state"], record["role"] = "Suspended", "outgoing"
    host.store.save(record)
    # all of the guest's I/O is answered; from here on its disks must be as they are
    try:
        host.disks.deactivate_all(record)
        figures.mark("deactivated")
        in_tpm = tpm.suspend(host.root, record["metadata"])
        remote.call(
            "VM.receive_memory",
            id=arriving,
            memory=xmlrpc.client.Binary(memory),
            marks=figures.marks,
        )
        record["saved"] = True
        host.store.rename(record, temporary_id(identity, "0"))
        # In the stream it follows the memory. That it could not be restored the real source hears
        # at synchronisation point 2, with its VM renamed.
        remote.call("VM.receive_tpm", id=arriving, contents=in_tpm)
    except XenopsError:
        _abort(remote, arriving)
        raise
    try:
        remote.perform("VM.receive_finish", id=arriving, final_id=identity)
    except XenopsError as error:
        raise internal("VM.migrate: Failed during Synchronisation point 4. msg: %s" % error)


def _forget(host, record, identity):
    """The VM runs at the destination: shut down what is left of it here."""
    # by the VM's own id, though it has a temporary one here by now (VM_hook_script_stable)
    host.hook("vm-pre-shutdown", record, "suspend", identity)
    host.destroy_domain(record)
    host.hook("vm-post-destroy", record, "suspend", identity)
    host.store.remove(record["id"])


def _abort(remote, arriving):
    try:
        remote.call("VM.receive_abort", id=arriving)
    except XenopsError as error:
        log.warning("the destination did not hear that the migration has failed: %s", error)
