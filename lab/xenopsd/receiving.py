# SPDX-License-Identifier: LGPL-2.1-only
"""The destination's side of VM.migrate, in the order of xenops_server.ml (VM_receive_memory).

The real one takes two PUTs with handshakes for this; here it is six calls, at the same
synchronisation points: import_metadata, receive_connect (xapi hands the connection over),
receive_prepare (point 1), receive_memory and receive_tpm (point 2), receive_finish (points 3 and
4). The connection of a PUT, whose end tells the real one that its source is gone, is here a look at
the source's process and at a file of it (sending.py).
"""

import json
import logging
import os
import subprocess
import threading
import time

from lab.xenopsd import process, tpm
from lab.xenopsd.errors import bad_power_state
from lab.xenopsd.figures import Figures

log = logging.getLogger("xenopsd")

SOCKET = "run/xenopsd.sock"
AT_SWITCH = 120.0
LOOK = 0.5  # seconds between two looks at whether the source is still there
OUTPUT = 2000


def import_metadata(host, text):
    """Take a VM's metadata (a JSON string), of one that arrives if it says from where; its id
    here."""
    metadata = json.loads(text)
    source = metadata.pop("source", None)
    if source is None:
        return host.import_metadata(text)
    identity = host.add(metadata)
    record = host.store.get(identity)
    record["role"], record["figures"] = "incoming", {}
    host.store.save(record)
    threading.Thread(target=_outlive, args=(host, identity, record, source), daemon=True).start()
    return identity


def _outlive(host, identity, record, source):
    """Forget a VM that was arriving when its source's xenopsd ended, or its connection, unless the
    all-clear had been given."""
    while os.path.exists(source["connection"]) and not process.wait(
        source["pid"], source["started"], LOOK
    ):
        pass
    with host.store.lock(identity):
        if host.store.find(identity) is record and record["role"] == "incoming":
            log.warning("VM %s: its source is gone", identity)
            _clean_up(host, record)


def connect(host, identity):
    """Where a source that has been let in by xapi reaches this xenopsd itself."""
    host.store.get(identity)
    return os.path.join(host.root, SOCKET)


def prepare(host, identity):
    """Do before the suspend what can be done then: the domain, and the disks that can be attached
    early. If that fails, what was done stays under the temporary id: only the sender is told."""
    with host.store.lock(identity):
        record = host.store.get(identity)
        try:
            host.create_domain(record)
            for disk in record["metadata"]["disks"]:
                if disk.get("can_attach_early", True):
                    host.disks.attach(record, disk)
        except Exception:
            record["role"] = ""
            host.check_state(identity)
            raise


def take_memory(host, identity, memory, marks):
    """Take the memory of the guest that was suspended. `marks`: see figures.py."""
    with host.store.lock(identity):
        record = host.store.get(identity)
        host.domains.restore(record["domain"], memory)
        record["figures"] = {"marks": marks, "memory_bytes": len(memory)}
        host.store.save(record)


def take_tpm(host, identity, contents):
    """Have xapi put what was in the guest's virtual TPM into the one that it has here."""
    with host.store.lock(identity):
        tpm.restore(host.root, host.store.get(identity)["metadata"], contents)


def finish(host, identity, final):
    """The all-clear: activate the disks, run, and say so. If that fails, what has been done stays
    as it is, paused, under the VM's own id: the real one cleans up what has the temporary id, and
    that is not there any more."""
    with host.store.lock(identity), host.store.alias(identity, final):
        record = host.store.get(identity)
        if record["power_state"] != "Paused" or not record["figures"]:
            raise bad_power_state(record["power_state"], "Paused")
        record["role"] = ""
        host.store.rename(record, final)
        _resume(host, record)
        host.hook("vm-post-migrate", record, "destination")


def abort(host, identity):
    """The source will not come: forget the VM that was arriving. One that runs already is left
    alone."""
    with host.store.lock(identity):
        record = host.store.find(identity)
        if record is not None and record["role"] == "incoming":
            _clean_up(host, record)


def _resume(host, record):
    marks = Figures(record["figures"]["marks"])
    marks.mark("activate")
    try:
        disks = host.disks.activate_all(record)
    finally:
        host.signal_disks(record["id"])
    marks.mark("activated")
    at_switch = _at_switch(host.root, record)
    host.domains.run(record["domain"], disks, at_switch["seconds"] if at_switch else 0.0)
    marks.mark("resumed")
    record["figures"] = marks.summary(at_switch, record["figures"]["memory_bytes"])
    host.runs(record)


def _at_switch(root, record):
    """Run the lab's own hook at the instant when no side writes; {"seconds", "exit", "output"}, or
    None without one."""
    script = os.path.join(root, "etc/lab-at-switch")
    if not os.path.exists(script):
        return None
    begun = time.time()
    argument = json.dumps({"id": record["id"], "disks": record["metadata"].get("moved", [])})
    try:
        done = subprocess.run(
            [script, argument],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=AT_SWITCH,
        )
        code, output = done.returncode, done.stdout.decode(errors="replace")[-OUTPUT:]
    except (OSError, subprocess.TimeoutExpired) as error:
        code, output = 127, str(error)
    return {"seconds": round(time.time() - begun, 6), "exit": code, "output": output}


def _clean_up(host, record):
    host.destroy_anyhow(record)
    host.store.remove(record["id"])
