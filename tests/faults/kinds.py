# SPDX-License-Identifier: LGPL-2.1-only
"""The kinds of VM that the campaign moves: how each is made, what it takes to move it, and what it
promises beside the four checks."""

import random

import XenAPI

from tests.e2e import high_availability, tpm, tracked
from tests.e2e.kinds_of_disks import ReadOnly, Unplugged
from tests.e2e.moments import MOMENTS
from tests.e2e.scene import MIB, Scene
from tests.e2e.snapshots import Tree, WithCheckpoint
from tests.e2e.suspended import Sleeper
from tests.eventually import eventually

SERIES = 4
"""Runs one after the other that have the same VM: each is the second migration after the one
before."""
GIVEN_UP = "Changed Block Tracking metadata is inconsistent for disk %s"
HA_IS_AT_IT = ("VM_BAD_POWER_STATE", "OTHER_OPERATION_IN_PROGRESS")
TWO_DISKS = (16 * MIB, 8 * MIB)  # the one that is of a kind is the smaller one, which comes first


class Plain:
    """A VM without anything special, in a lab that was made for it. `scene`: its Scene."""

    runs = True
    """Whether it runs while it is moved."""
    moments = {}
    """{phase: conditions (see lab.dom0.breakpoint)} of phases that it has, too, or that it has in
    place of its own."""

    def __init__(self, lab):
        self.scene = self.make(lab)

    def make(self, lab):
        """The Scene with the VM, running."""
        return Scene(lab)

    def prepare(self):
        """Just before each migration."""

    def arguments(self):
        """Those of a migration to the other pool."""
        return self.scene.arguments()

    def moment(self, phase, chance):
        """When the worker is held for a case of this phase: a condition. `chance`: a Random."""
        return chance.choice(self.moments.get(phase, (MOMENTS[phase],)))

    def rest(self):
        """The VM is where it is to stay, and not started again: have it run, there."""

    def start(self):
        """The faults have halted it: start it where its disks are, as it was."""
        self.scene.pool.start_vm(
            self.scene.pool.xapi.VM.get_by_uuid(self.scene.uuid), self.scene.host.name
        )

    def snapshots(self):
        """The UUIDs of its snapshots."""
        return set()

    def check(self):
        """What holds of it wherever it is, once it runs. Raises AssertionError."""
        for pool in self.scene.lab.pools:
            present = {
                vm["uuid"]
                for vm in pool.xapi.VM.get_all_records().values()
                if not vm["is_control_domain"]
            }
            wanted = {self.scene.uuid} | self.snapshots() if pool is self.scene.pool else set()
            assert present == wanted, "VMs in pool %s: %s" % (pool.name, present ^ wanted)

    def moves(self):
        """One more migration, which nobody disturbs."""
        scene = self.scene
        self.prepare()
        entry = scene.ended(scene.begin(**self.arguments()))
        assert entry["state"] == "succeeded", entry["error"]
        scene.host = scene.there
        self.rest()
        scene.assert_runs()
        scene.assert_nothing_left()
        self.check()


class Snapshots(Plain):
    """With a tree of snapshots: all of them are where it is, with what is in their disks."""

    moments = {
        "receive": (MOMENTS["receive"], ("migration", "phase", ["history"], True)),
        "sync": (MOMENTS["sync"], ("snapshot 0", "state", ["copying"], True)),
        "mirroring": (
            ("disk 0", "state", ["mirroring"], True),
            ("snapshot 1", "state", ["copying"], True),
            ("snapshot 1", "state", ["kept"], True),
        ),
        "copying": (("disk 0", "state", ["copying"], True),),
        "in-sync": (("disk 0", "state", ["in-sync"], True),),
        "detached": (("disk 0", "gate", ["detached"], True),),
        "locked": (("disk 0", "gate", ["locked"], True),),
        "opening": (("disk 0", "gate", ["opening"], True),),
        "open": (("disk 0", "gate", ["open"], True),),
    }

    def __init__(self, lab):
        super().__init__(lab)
        self._tree = Tree(self.scene)

    def make(self, lab):
        return Scene(lab, (8 * MIB,))

    def snapshots(self):
        x = self.scene.pool.xapi
        return set(map(x.VM.get_uuid, self._tree.snapshots().values()))

    def check(self):
        super().check()
        assert self._tree.described() == self._tree.taken
        self._tree.assert_chains()


class Checkpoint(Snapshots):
    """With a checkpoint: it is where the VM is, with what is in its disk and its memory."""

    def __init__(self, lab):
        Plain.__init__(self, lab)
        self._tree = WithCheckpoint(self.scene)


class Protected(Plain):
    """HA restarts it, and is enabled in both pools: it protects it in the end as before."""

    def make(self, lab):
        high_availability.enable(lab)
        scene = Scene(lab)
        high_availability.protect(scene)
        return scene

    def start(self):
        """HA may come before us, if the fault came before it was on disk that it is to leave the VM
        alone: the priority is back, and the VM halted."""
        try:
            super().start()
        except XenAPI.Failure as failure:
            if failure.details[0] not in HA_IS_AT_IT:
                raise
        eventually(lambda: self.scene.record["power_state"] == "Running", "it is started")

    def check(self):
        super().check()
        high_availability.assert_protected(self.scene)


class WithTpm(Plain):
    """With a virtual TPM, into which something new is written before each migration: it is in the
    one TPM that there is, where the VM is."""

    def __init__(self, lab):
        super().__init__(lab)
        tpm.give(self.scene)
        self._tpm = tpm.Tpm(self.scene)
        self._tpm.write()
        self._identity = self._tpm.identity

    def prepare(self):
        self._tpm.write()
        self.scene.pool.xapi.pool.sync_database()

    def check(self):
        super().check()
        tpm.assert_only_here(self.scene, self._tpm)
        assert self._tpm.identity == self._identity


class Tracked(Plain):
    """With changed block tracking, which is renewed: its disk is tracked in the end."""

    moments = {
        "sync": (MOMENTS["sync"], ("migration", "cbt_disabled", [None, []], False)),
        "end": (MOMENTS["end"], ("migration", "cbt_disabled", [[]], True)),
    }

    def __init__(self, lab):
        super().__init__(lab)
        self._enable()

    def _enable(self):
        with tracked.by_others(self.scene):
            self.scene.pool.xapi.VDI.enable_cbt(tracked.vdi_of(self.scene))
        self.scene.pool.xapi.pool.sync_database()

    def start(self):
        """SM itself gives up the log of a disk whose tapdisk did not close it (VDI.py), as when its
        host had no power."""
        super().start()
        _, vdi = tracked.place(self.scene)
        with open(self.scene.host.root + "/var/log/SMlog") as log:
            if any(GIVEN_UP % vdi in line for line in log):
                self._enable()

    def arguments(self):
        return dict(super().arguments(), cbt="renew")

    def check(self):
        super().check()
        tracked.assert_tracked(self.scene)


class WithReadOnlyDisk(Plain):
    """With one more disk, that it has read-only."""

    moments = {
        "mirroring": (("disk 1", "state", ["mirroring"], True),),
        "copying": (("disk 0", "state", ["copying"], True), ("disk 1", "state", ["copying"], True)),
        "in-sync": (("disk 0", "state", ["in-sync"], True), ("disk 1", "state", ["in-sync"], True)),
        "detached": (("disk 1", "gate", ["detached"], True),),
        "locked": (("disk 0", "gate", ["locked"], True), ("disk 1", "gate", ["locked"], True)),
        "opening": (("disk 0", "gate", ["opening"], True), ("disk 1", "gate", ["opening"], True)),
        "open": (("disk 0", "gate", ["open"], True), ("disk 1", "gate", ["open"], True)),
    }

    def make(self, lab):
        return ReadOnly(lab, TWO_DISKS)

    def check(self):
        super().check()
        self.scene.assert_disk()


class WithUnpluggedDisk(WithReadOnlyDisk):
    """With one more disk, that is not plugged. Its gate opens before xenopsd is asked."""

    def make(self, lab):
        return Unplugged(lab, TWO_DISKS)

    def start(self):
        self.scene.make()  # a start would plug it


class Suspended(Plain):
    """Suspended, with the image of its memory, which is a disk that is copied like the other."""

    runs = False
    # Of what a halted VM's migration has (migration/phases/table.py), the nearest to the name.
    moments = {
        "mirroring": (("disk 0", "mover", [None], False),),
        "copying": (("disk 0", "state", ["copying"], True), ("disk 1", "state", ["copying"], True)),
        "in-sync": (("disk 0", "state", ["in-sync"], True), ("disk 1", "state", ["in-sync"], True)),
        "remap": (("disk 1", "state", ["in-sync"], True),),
        "move": (("migration", "phase", ["hand-over"], True),),
        "asked": (("migration", "phase", ["hand-over"], True),),
        "complete": (
            ("migration", "phase", ["adopt"], True),
            ("migration", "imported", [True], True),
        ),
    }

    def make(self, lab):
        return Sleeper(lab)

    def prepare(self):
        self._written = self.scene.suspend()
        self.scene.pool.xapi.pool.sync_database()

    def rest(self):
        self.scene.resume(self._written)


KINDS = {
    "plain": Plain,
    "with snapshots": Snapshots,
    "with a checkpoint": Checkpoint,
    "protected by HA": Protected,
    "with a TPM": WithTpm,
    "with block tracking": Tracked,
    "with a read-only disk": WithReadOnlyDisk,
    "with an unplugged disk": WithUnpluggedDisk,
    "suspended": Suspended,
}
"""{name: class}"""


def kind_of(seed):
    """The kind of VM of the run with this seed, a name of KINDS. The runs of a series have the
    same; each is that of one in as many series."""
    number, place = divmod(seed // SERIES, len(KINDS))
    return random.Random("kinds %d" % number).sample(sorted(KINDS), len(KINDS))[place]
