# SPDX-License-Identifier: LGPL-2.1-only
"""Two pools with an SR of each of the five types, and VMs with one disk on each: what the tests in
the storage guest share."""

import contextlib
import json
import subprocess
import time

from lab.dom0 import breakpoint
from lab.guest import content
from lab.guest.record import Record
from lab.pools import leftovers, topology, volumes
from lab.pools.pool import SR_SIZE
from lab.storage_guest import services
from tests import by_xe, under_way
from tests.eventually import eventually

MIB = 1 << 20
PLAN = (topology.PoolPlan("A", ("a1",), False, ()), topology.PoolPlan("B", ("b1",), False, ()))
RELEASE = "xcp-ng-8.3"
"""The release that has two image formats."""
TYPES = services.TYPES
QCOW2 = ("nfs", "lvmoiscsi")
"""The types whose SRs make QCOW2 images here: some on files and some on LVM, from and to VHD."""
POOLS = {"a": "A", "b": "B", "c": "A"}
"""Which pool has the SRs on which side of the services."""
SIZE = 8 * MIB
GUEST = {"writes": 1, "workers": 1, "fill": 0.25}
RATE = 2 * MIB
"""Bytes a second that a slow link carries: the few windows of 1 MiB that are under way pass in less
than a mirrored write may wait."""
AFTERWARDS = 5
MOVE = 1500.0
PATIENCE = 240.0
"""Seconds. Under emulation everything takes an order of magnitude longer."""
MOMENT, POLL = 0.2, 0.5
"""Seconds between two looks, at a file and at more: an emulated processor has better to do."""
CLUSTER = 1 << 16
"""What an image allocates at once, in bytes."""


class Five:
    """The lab's pools, with SRs made the first time that they are asked for."""

    def __init__(self, lab):
        self.lab = lab
        self._made = {}

    def pool(self, side):
        """The pool that has the SRs of this side."""
        return self.lab.pool(POOLS[side])

    def host(self, side):
        """Its only host."""
        return self.pool(side).hosts[0]

    def sr(self, sr_type, side):
        """The ref of the SR of that type on that side."""
        if (sr_type, side) not in self._made:
            config = dict(services.device_config(sr_type, side))
            if sr_type in QCOW2:
                config["preferred-image-formats"] = "qcow2,vhd"
            self._made[sr_type, side] = self.create_sr(sr_type, side, config)
        return self._made[sr_type, side]

    def create_sr(self, sr_type, side, device_config, sm_config=None):
        """Make an SR as an administrator does; its ref."""
        pool = self.pool(side)
        return pool.xapi.SR.create(
            pool.host_ref(self.host(side).name),
            device_config,
            str(SR_SIZE),
            "%s-%s" % (sr_type, side),
            "",
            sr_type,
            "user",
            False,
            sm_config or {},
        )

    def uuid(self, sr_type, side):
        """The uuid of that SR."""
        return self.pool(side).xapi.SR.get_uuid(self.sr(sr_type, side))

    @contextlib.contextmanager
    def disposable_sr(self, side, sr):
        """An SR (a ref) besides those of the five types, destroyed in the end."""
        try:
            yield sr
        finally:
            self.destroy_sr(self.pool(side), sr)

    def destroy_sr(self, pool, sr):
        """Unplug an SR and destroy it."""
        for pbd in pool.xapi.SR.get_PBDs(sr):
            if pool.xapi.PBD.get_currently_attached(pbd):
                pool.xapi.PBD.unplug(pbd)
        pool.xapi.SR.destroy(sr)

    def introduce_again(self, sr_type, side):
        """Forget an unplugged SR, and make it known again by its uuid, not plugged, as an
        administrator does. The ref of its PBD."""
        xapi, sr = self.pool(side).xapi, self.sr(sr_type, side)
        record, (pbd,) = xapi.SR.get_record(sr), xapi.SR.get_PBDs(sr)
        connection = xapi.PBD.get_record(pbd)
        xapi.SR.forget(sr)
        made = xapi.SR.introduce(
            record["uuid"], record["name_label"], "", sr_type, "user", False, record["sm_config"]
        )
        self._made[sr_type, side] = made
        return xapi.PBD.create(
            {"host": connection["host"], "SR": made, "device_config": connection["device_config"]}
        )

    def unplug(self):
        """Unplug all SRs, so that nothing is mounted any more where the lab lies."""
        for (_, side), sr in self._made.items():
            xapi = self.pool(side).xapi
            for pbd in xapi.SR.get_PBDs(sr):
                if xapi.PBD.get_currently_attached(pbd):
                    xapi.PBD.unplug(pbd)

    @contextlib.contextmanager
    def vm(self, srs, side="a", size=SIZE, guest=None):
        """A running VM with a disk on each of these SRs (refs of the pool of `side`), that has
        written. Its uuid.

        In the end its migrations are ended, and it is removed wherever it is: a test that fails
        leaves nothing to the next."""
        pool = self.pool(side)
        name = "vm-%d" % int(time.time() * 1000)
        ref = pool.create_vm(name, [(sr, size) for sr in srs], dict(GUEST, **guest or {}))
        uuid = pool.xapi.VM.get_uuid(ref)
        try:
            pool.start_vm(ref, self.host(side).name)
            wait_for_writes(self.host(side).guest(uuid), AFTERWARDS)
            yield uuid
        finally:
            under_way.end_migrations(self.lab, uuid)
            self.remove(uuid)

    def held(self, arguments, when):
        """A migration from side "a" whose worker stands still at a moment (lab.dom0.breakpoint):
        its id. Then it goes on."""
        host = self.host("a")

        def begin():
            status, answer, said = migrate(host, dict(arguments, wait="false"))
            assert status == 0, said
            return answer["migration"]

        return breakpoint.held(
            host.root, when, begin, lambda migration: journal(host, migration), MOVE
        )

    def remove(self, uuid):
        """Shut the VM down, wherever it is, and destroy it with its disks."""
        for pool in self.lab.pools:
            for ref, record in pool.xapi.VM.get_all_records().items():
                if record["uuid"] == uuid:
                    if record["power_state"] != "Halted":
                        pool.xapi.VM.hard_shutdown(ref)
                    for vbd in record["VBDs"]:
                        pool.xapi.VDI.destroy(pool.xapi.VBD.get_VDI(vbd))
                    pool.xapi.VM.destroy(ref)

    def disks(self, uuid, side):
        """The VDIs of a VM: [(uuid, SR's type)], in the order of its devices."""
        xapi = self.pool(side).xapi
        vbds = [xapi.VBD.get_record(vbd) for vbd in xapi.VM.get_VBDs(xapi.VM.get_by_uuid(uuid))]
        vdis = [
            xapi.VDI.get_record(vbd["VDI"])
            for vbd in sorted(vbds, key=lambda vbd: int(vbd["userdevice"]))
        ]
        return [(vdi["uuid"], xapi.SR.get_type(vdi["SR"])) for vdi in vdis]

    def image_format(self, side, vdi):
        """The format of the image of a VDI (a uuid), as SM has noted it."""
        api = self.pool(side).xapi.VDI
        return api.get_sm_config(api.get_by_uuid(vdi))["image-format"]

    def arguments(self, uuid, targets, side="a", there="b"):
        """The plugin's arguments for a move of the VM. `targets`: the uuids of the SRs for its
        disks, in the order of its devices."""
        source, destination = self.pool(side), self.pool(there)
        arguments = {"vm": uuid}
        arguments.update(
            ("vdi:" + vdi, sr) for (vdi, _), sr in zip(self.disks(uuid, side), targets)
        )
        if source is not destination:
            vif = source.xapi.VIF.get_uuid(
                source.xapi.VM.get_VIFs(source.xapi.VM.get_by_uuid(uuid))[0]
            )
            arguments.update(
                {
                    "remote-master": "%s:%d"
                    % (destination.master.address, destination.master.https_port),
                    "remote-username": "root",
                    "remote-password": destination.password,
                    "vif:" + vif: destination.xapi.network.get_uuid(destination.network()),
                }
            )
        return arguments

    def left(self):
        """Sentences about all that stands in the lab without need."""
        return leftovers.at_rest(self.lab) + volumes.at_rest(self.lab)

    def occupied(self, side, vdi):
        """The bytes that a VDI (a uuid) has of its SR: its logical volume, or the blocks of its
        file."""
        xapi = self.pool(side).xapi
        record = xapi.VDI.get_record(xapi.VDI.get_by_uuid(vdi))
        return volumes.occupied(
            self.host(side).root, xapi.SR.get_uuid(record["SR"]), record["location"]
        )


def wait_for_writes(guest, more):
    """Wait until the guest has had `more` writes acknowledged."""
    begun = guest.status()["writes_acknowledged"]
    eventually(
        lambda: guest.status()["writes_acknowledged"] >= begun + more,
        "%d more writes" % more,
        PATIENCE,
        poll=POLL,
    )


def written(guest):
    """What the guest has ever written to each disk, in whole clusters: {device: bytes}."""
    sectors = CLUSTER // content.SECTOR
    found = {}
    for device, packed in guest.records().items():
        generations = Record.unpack(b"", packed).generations
        found[device] = sum(
            CLUSTER
            for first in range(0, len(generations), sectors)
            if any(generations[first : first + sectors])
        )
    return found


def migrate(host, arguments):
    """`xe host-call-plugin ... fn=migrate` in dom0 of `host`: (exit status, answer or None, what it
    said)."""
    done = by_xe.call(host, "migrate", arguments, MOVE)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else None, done.stderr


def journal(host, migration):
    """The journal of a migration at its source."""
    with open("%s/var/lib/sxm/%s.json" % (host.root, migration)) as stream:
        return json.load(stream)


def until(host, migration, what, bound=MOVE):
    """Wait until `what(journal)` is true; the journal then."""

    def found():
        entry = journal(host, migration)
        return entry if what(entry) else None

    return eventually(
        found,
        "what its journal is to say",
        bound,
        seen=lambda: journal(host, migration)["phase"],
        poll=MOMENT,
    )


def ended(host, migration):
    """Wait for the end of a migration; its journal."""
    return until(host, migration, lambda entry: entry["state"] != "running")


def logs(host, lines=60):
    """The ends of a host's logs."""
    return subprocess.run(
        "tail -n %d -v %s/var/log/SMlog %s/var/log/sxm.log" % (lines, host.root, host.root),
        shell=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
