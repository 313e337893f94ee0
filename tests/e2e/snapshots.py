# SPDX-License-Identifier: LGPL-2.1-only
"""A VM with a tree of snapshots, and all that must be the same of them wherever they are."""

import contextlib
import hashlib
import json
import os
import subprocess
import threading

from lab.pools import at_switch
from lab.xapi.database import NULL

CONVERT = 60.0
POKE = 0.02
NULL = "OpaqueRef:NULL"
QEMU_IMG = "qemu-img"


def contents(lab, pool, vdi):
    """The digest of what is in a VDI, as a guest would read it."""
    x = pool.xapi
    locator = "%s/%s" % (x.SR.get_uuid(x.VDI.get_SR(vdi)), x.VDI.get_location(vdi))
    with at_switch.image(lab.directory, locator) as path:
        copy = os.path.join(lab.directory, "contents.raw")
        line = [QEMU_IMG, "convert", "-U", "-O", "raw", path, copy]
        subprocess.run(line, check=True, timeout=CONVERT)
        with open(copy, "rb") as stream:
            digest = hashlib.sha256(stream.read()).hexdigest()
        os.unlink(copy)
    return digest


def backing_of(lab, pool, vdi):
    """The names of the images that a VDI's image is on, the nearest first."""
    return [os.path.basename(path) for path in _chain_of(lab, pool, vdi)[1:]]


def occupied_by(lab, pool, vdis):
    """Bytes of data in the images of the chains of VDIs, each image once."""
    images = {path for vdi in vdis for path in _chain_of(lab, pool, vdi)}
    extents = [extent for path in images for extent in _told("map", path)]
    return sum(one["length"] for one in extents if one["data"] and one["depth"] == 0)


def _chain_of(lab, pool, vdi):
    """The paths of a VDI's image and of those that it is on, the nearest first."""
    x = pool.xapi
    locator = "%s/%s" % (x.SR.get_uuid(x.VDI.get_SR(vdi)), x.VDI.get_location(vdi))
    with at_switch.image(lab.directory, locator) as path:
        told = _told("info", "--backing-chain", path)
        directory = os.path.dirname(path)
    return [os.path.join(directory, image["filename"]) for image in told]


def _told(command, *arguments):
    line = [QEMU_IMG, command, "-U", "--output=json"] + list(arguments)
    told = subprocess.run(line, check=True, stdout=subprocess.PIPE, timeout=CONVERT).stdout
    return json.loads(told)


@contextlib.contextmanager
def poked(host):
    """While the body runs, the tapdisks of a host are asked something every now and then: of one
    that is busy the reply to a pause may stay out without that, as of the real one
    (docs/facts/tapdisk-and-sm.md, "The pause that hangs")."""
    over = threading.Event()

    def poke():
        while not over.wait(POKE):
            subprocess.run(
                [host.root + "/usr/sbin/tap-ctl", "list"],
                stdout=subprocess.DEVNULL,
                timeout=CONVERT,
            )

    poker = threading.Thread(target=poke)
    poker.start()
    try:
        yield
    finally:
        over.set()
        poker.join()


class Tree:
    """The VM of a scene with snapshots: `first`, `branch` on it, and, after the VM went back to
    `first`, `last`, which it is on now."""

    # (one of them, or None for the VM; the one that it is on)
    ON = (("branch", "first"), ("last", "first"), (None, "last"))

    def __init__(self, scene):
        self.scene = scene
        x = scene.pool.xapi
        self.take("first")
        scene.wait_for_writes(30)
        self.take("branch")
        scene.wait_for_writes(10)
        x.VM.revert(self.snapshots()["first"])
        scene.pool.start_vm(self.vm, scene.host.name)
        scene.wait_for_writes(30)
        self.take("last")
        scene.wait_for_writes(30)
        x.pool.sync_database()
        self.taken = self.described()

    @property
    def vm(self):
        return self.scene.pool.xapi.VM.get_by_uuid(self.scene.uuid)

    def other_sr(self):
        """The name of the SR of its host in which its disks are not."""
        x = self.scene.pool.xapi
        now = x.SR.get_name_label(x.VDI.get_SR(self.disks(self.vm)["0"])).split("-")[1]
        return {"fast": "big", "big": "fast"}[now]

    def take(self, name):
        """Take a snapshot."""
        with poked(self.scene.host):
            self.scene.pool.xapi.VM.snapshot(self.vm, name)

    def snapshots(self):
        """{name: ref}"""
        x = self.scene.pool.xapi
        return {x.VM.get_name_label(ref): ref for ref in x.VM.get_snapshots(self.vm)}

    def disks(self, vm):
        """{userdevice: VDI} of a VM or a snapshot."""
        x = self.scene.pool.xapi
        return {
            x.VBD.get_userdevice(vbd): x.VBD.get_VDI(vbd)
            for vbd in x.VM.get_VBDs(vm)
            if x.VBD.get_type(vbd) == "Disk"
        }

    def described(self):
        """What must be the same wherever it is."""
        x, found, own = self.scene.pool.xapi, {}, self.disks(self.vm)
        snapshots = {ref: name for name, ref in self.snapshots().items()}
        names = dict(snapshots, **{NULL: None})  # what leads to something else is a mistake
        assert x.VM.get_snapshot_of(self.vm) == NULL
        for ref, name in snapshots.items():
            record, disks = x.VM.get_record(ref), self.disks(ref)
            assert record["is_a_snapshot"] and record["snapshot_of"] == self.vm
            assert record["blocked_operations"] == {}
            suspended = record["power_state"] == "Suspended"
            assert suspended is (record["suspend_VDI"] != NULL)
            images = {"memory": record["suspend_VDI"]} if suspended else {}
            assert sorted(disks) == sorted(own)
            for device, vdi in dict(disks, **images).items():
                known = x.VDI.get_record(vdi)
                assert known["is_a_snapshot"], known
                assert device in images or known["snapshot_of"] == own[device], known
                assert known["managed"] and "sxm_migration" not in known["other_config"]
                assert not [key for key in known["sm_config"] if key in ("paused", "relinking")]
            found[name] = (
                record["uuid"],
                names[record["parent"]],
                str(record["snapshot_time"]),
                sorted(x.VIF.get_MAC(vif) for vif in record["VIFs"]),
                {
                    device: (
                        x.VDI.get_name_label(vdi),
                        str(x.VDI.get_snapshot_time(vdi)),
                        contents(self.scene.lab, self.scene.pool, vdi),
                    )
                    for device, vdi in dict(disks, **images).items()
                },
                [x.VDI.get_type(vdi) for vdi in images.values()],
            )
        found["the VM"] = names[x.VM.get_parent(self.vm)]
        return found

    def assert_chains(self):
        """Each of them, and the VM, shares an image with what it comes after."""
        lab, pool = self.scene.lab, self.scene.pool
        own, snapshots = self.disks(self.vm), self.snapshots()
        for above, below in self.ON:
            for device, vdi in (self.disks(snapshots[above]) if above else own).items():
                shared = set(backing_of(lab, pool, vdi)) & set(
                    backing_of(lab, pool, self.disks(snapshots[below])[device])
                )
                assert shared, "%s is on nothing of %s" % (above or "the VM", below)

    def occupied(self, own=True):
        """Bytes of data in the images of its snapshots, and of its `own` disks, each once."""
        vms = list(self.snapshots().values()) + ([self.vm] if own else [])
        vdis = [vdi for vm in vms for vdi in self.disks(vm).values()]
        return occupied_by(self.scene.lab, self.scene.pool, vdis)

    def gone(self):
        """A function that fails if something of it is still where it is now."""
        pool = self.scene.pool
        x, vms = pool.xapi, [self.vm] + list(self.snapshots().values())
        vdis = {x.VDI.get_uuid(vdi) for vm in vms for vdi in self.disks(vm).values()}
        images = [x.VM.get_suspend_VDI(vm) for vm in vms]
        vdis |= {x.VDI.get_uuid(image) for image in images if image != NULL}
        uuids = {x.VM.get_uuid(vm) for vm in vms}

        def check(records=True, but=frozenset()):
            known = {vdi["uuid"] for vdi in pool.xapi.VDI.get_all_records().values()}
            assert vdis & known == but
            known = {vm["uuid"] for vm in pool.xapi.VM.get_all_records().values()}
            assert not records or not uuids & known

        return check

    def go_back(self, name):
        """Revert to one, and have the VM run."""
        x = self.scene.pool.xapi
        x.VM.revert(self.snapshots()[name])
        for device, vdi in self.disks(self.vm).items():
            assert contents(self.scene.lab, self.scene.pool, vdi) == self.taken[name][4][device][2]
        self.scene.pool.start_vm(self.vm, self.scene.host.name)
        self.scene.wait_for_writes(30)


class WithCheckpoint(Tree):
    """The VM of a scene with the checkpoint `awake`, at which it had had `written` writes
    acknowledged."""

    ON = ((None, "awake"),)

    def __init__(self, scene):
        self.scene = scene
        x = scene.pool.xapi
        x.VM.set_suspend_SR(self.vm, scene.pool.sr(scene.host.name, "fast"))
        self.written = scene.guest.status()["writes_acknowledged"]
        with poked(scene.host):
            x.VM.checkpoint(self.vm, "awake")
        scene.settle()
        scene.wait_for_writes(30)
        x.pool.sync_database()
        self.taken = self.described()

    def resume_from_it(self):
        """Go back to the checkpoint, and have the VM go on from there."""
        x, before = self.scene.pool.xapi, self.scene.guest.status()["writes_acknowledged"]
        x.VM.revert(self.snapshots()["awake"])
        assert self.scene.record["power_state"] == "Suspended"
        x.VM.resume(self.vm, False, False)
        self.scene.settle()
        assert self.written <= self.scene.guest.status()["writes_acknowledged"] < before
        self.scene.assert_runs()
