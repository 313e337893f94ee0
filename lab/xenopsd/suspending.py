# SPDX-License-Identifier: LGPL-2.1-only
"""VM.suspend and VM.resume, in the order of xenops_server.ml: the memory goes to a disk, and comes
back from it."""

import contextlib

from lab.guest import nbd
from lab.xenopsd.errors import bad_power_state, internal

DEVICE = "suspend"
SECTOR = 512


@contextlib.contextmanager
def _image(host, record, locator, writable):
    """A connection to the VDI, which is attached and active meanwhile."""
    host.disks.activate(record, {"device": DEVICE, "vdi": locator, "rw": writable})
    try:
        connection = nbd.connect({"socket": record["attached"][DEVICE]["socket"]})
        try:
            yield connection
        except nbd.FAILURES as error:
            raise internal("the suspend image: %s" % error)
        finally:
            connection.close()
    finally:
        host.disks.detach(record, DEVICE)


def suspend(host, identity, locator):
    """Suspend the VM into the VDI of that locator. Where the image fails it is shut down."""
    with host.store.lock(identity):
        record = host.store.get(identity)
        if record["power_state"] != "Running":
            raise bad_power_state(record["power_state"], "Running")
        host.hook("vm-pre-suspend", record, "suspend")
        memory = host.domains.suspend(record["domain"])
        record["power_state"] = "Suspended"
        host.store.save(record)
        try:
            with _image(host, record, locator, True) as image:
                padded = memory + bytes(-len(memory) % SECTOR)
                image.write(0, len(memory).to_bytes(SECTOR, "big"))
                image.write(SECTOR, padded)
        except Exception:
            host.check_state(identity)
            raise
        record["saved"] = True
        host.hook("vm-pre-shutdown", record, "suspend")
        host.destroy_domain(record)
        host.hook("vm-post-destroy", record, "suspend")
        host.signal(identity)


def resume(host, identity, locator):
    """Have the VM, which is known and has no domain, go on from that VDI."""
    with host.store.lock(identity):
        record = host.store.get(identity)
        if record["domain"]:
            raise bad_power_state(record["power_state"], "Suspended")
        host.hook("vm-pre-resume", record, "none")
        try:
            host.create_domain(record)
            with _image(host, record, locator, False) as image:
                length = int.from_bytes(image.read(0, SECTOR), "big")
                memory = image.read(SECTOR, length + -length % SECTOR)[:length]
            host.domains.restore(record["domain"], bytes(memory))
            host.domains.run(record["domain"], host.disks.activate_all(record))
        except Exception:
            host.destroy_anyhow(record)
            raise
        host.runs(record)
        host.hook("vm-post-resume", record, "none")
