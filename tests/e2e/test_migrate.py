# SPDX-License-Identifier: LGPL-2.1-only
"""Live moves by the administrator's command while the guest writes: nothing missing, disks equal at
the switch, nothing left."""

import json
import time

import pytest

from lab.pools import at_switch, leftovers
from lab.pools.lab import Lab
from tests import by_xe, under_way
from tests.eventually import eventually

MIB = 1 << 20
DISKS = (48 * MIB, 24 * MIB)
GUEST = {"writes": 80, "fill": 0.3}
MOVE = 150.0
AFTERWARDS = 100
PATIENCE = 30.0


@pytest.fixture(scope="module")
def lab():
    with Lab() as lab:
        for host in lab.hosts:
            host.at_switch(at_switch.script(lab))
        yield lab


@pytest.fixture
def vm(lab):
    """Makes and starts VMs (pool, host) on the host's first SR, and removes them wherever they are
    in the end."""
    made = []

    def start(pool, host):
        name = "vm%d" % int(time.time() * 1000)
        ref = pool.create_vm(name, [(pool.sr(host, "fast"), size) for size in DISKS], GUEST)
        made.append(pool.start_vm(ref, host))
        wait_for_writes(lab.host(host).guest(made[-1]), AFTERWARDS)
        return ref

    yield start
    under_way.end_migrations(lab)
    for pool in lab.pools:
        for ref, record in pool.xapi.VM.get_all_records().items():
            if record["uuid"] in made:
                if record["power_state"] != "Halted":
                    pool.xapi.VM.hard_shutdown(ref)
                for vbd in record["VBDs"]:
                    pool.xapi.VDI.destroy(pool.xapi.VBD.get_VDI(vbd))
                pool.xapi.VM.destroy(ref)


def disks_of(pool, vm):
    return [pool.xapi.VBD.get_VDI(vbd) for vbd in pool.xapi.VM.get_VBDs(vm)]


def wait_for_writes(guest, more):
    begun = guest.status()["writes_acknowledged"]
    eventually(
        lambda: guest.status()["writes_acknowledged"] >= begun + more,
        "%d more writes" % more,
        PATIENCE,
    )


def migrate(host, **arguments):
    """The plugin's answer to `xe host-call-plugin ... fn=migrate`, in dom0 of `host`."""
    done = by_xe.call(host, "migrate", arguments, MOVE)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_moved(lab, uuid, before, answer, destination, was, source_pool, within):
    assert answer["state"] == "succeeded"
    guest = destination.guest(uuid)
    wait_for_writes(guest, AFTERWARDS)
    checked, status = guest.check(), guest.status()
    assert (checked["missing"], status["missing"], status["errors"], status["foreign"]) == (
        0,
        0,
        0,
        0,
    ), status
    assert status["writes_acknowledged"] > before + AFTERWARDS and status["pauses"]
    figures = destination.xenopsd("VM.stat", id=uuid)["migration"]
    assert figures["at_switch"]["exit"] == 0, figures
    assert len(json.loads(figures["at_switch"]["output"])) == len(DISKS)
    assert all(disk["verified"] == disk["copied"] for disk in answer["disks"])
    with open(destination.root + "/var/log/SMlog") as log:
        told = log.read()
    for disk in answer["disks"]:
        new = disk["destination_vdi"]
        assert "receive_finish (%r,) ['when-told']" % new in told, "nothing stood by"
    assert leftovers.of_vm(source_pool, was, moved_within=within) + leftovers.at_rest(lab) == []


def test_to_another_pool(lab, vm):
    source, destination = lab.pool("A"), lab.pool("B")
    ref = vm(source, "a1")
    uuid, was = source.xapi.VM.get_uuid(ref), leftovers.footprint(source, ref)
    for vdi in disks_of(source, ref):
        source.xapi.VDI.set_tags(vdi, ["gold", "web"])
        source.xapi.VDI.set_allow_caching(vdi, True)
    before = lab.host("a1").guest(uuid).status()["writes_acknowledged"]
    network = destination.xapi.network.get_uuid(destination.network())
    answer = migrate(
        lab.host("a1"),
        vm=uuid,
        **{
            "remote-master": "%s:%d" % (destination.master.address, destination.master.https_port),
            "remote-username": "root",
            "remote-password": destination.password,
            "destination-sr-uuid": destination.xapi.SR.get_uuid(destination.sr("b1", "fast")),
            "vif:%s" % was.objects["VIF"][0]: network,
        },
    )
    assert_moved(lab, uuid, before, answer, lab.host("b1"), was, source, within=False)
    assert (
        destination.xapi.VM.get_record(destination.xapi.VM.get_by_uuid(uuid))["power_state"]
        == "Running"
    )
    for vdi in disks_of(destination, destination.xapi.VM.get_by_uuid(uuid)):
        record = destination.xapi.VDI.get_record(vdi)
        assert (sorted(record["tags"]), record["allow_caching"]) == (["gold", "web"], True)


def test_to_another_sr_of_the_same_host(lab, vm):
    pool = lab.pool("B")
    ref = vm(pool, "b1")
    uuid, was = pool.xapi.VM.get_uuid(ref), leftovers.footprint(pool, ref)
    before = lab.host("b1").guest(uuid).status()["writes_acknowledged"]
    answer = migrate(
        lab.host("b1"),
        vm=uuid,
        **{"destination-sr-uuid": pool.xapi.SR.get_uuid(pool.sr("b1", "big"))},
    )
    assert_moved(lab, uuid, before, answer, lab.host("b1"), was, pool, within=True)


@pytest.mark.parametrize("source, destination", [("a1", "a2"), ("a2", "a1")])
def test_to_another_host_of_the_pool(lab, vm, source, destination):
    pool = lab.pool("A")
    ref = vm(pool, source)
    uuid, was = pool.xapi.VM.get_uuid(ref), leftovers.footprint(pool, ref)
    before = lab.host(source).guest(uuid).status()["writes_acknowledged"]
    answer = migrate(
        lab.host(source),
        vm=uuid,
        **{
            "host-uuid": lab.host(destination).uuid,
            "destination-sr-uuid": pool.xapi.SR.get_uuid(pool.sr(destination, "big")),
        },
    )
    assert_moved(lab, uuid, before, answer, lab.host(destination), was, pool, within=True)
    assert pool.xapi.VM.get_resident_on(ref) == pool.host_ref(destination)
