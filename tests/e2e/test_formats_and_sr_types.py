# SPDX-License-Identifier: LGPL-2.1-only
"""XCP-ng's storage: from QCOW2 to VHD, and back, while the VM runs; with a blktap that is known to
be safe and with one that is not; and from and to the types of SR that it alone has."""

import json
import os
import subprocess

import pytest

from lab.blktap import nbd_server, reply
from lab.pools import at_switch, leftovers, topology
from lab.pools.lab import Lab
from lab.sm import install
from tests.e2e.collector import Collector
from tests.e2e.scene import Scene

MIB = 1 << 20
PLAN = (topology.PoolPlan("A", ("a1",), False),)
SIZE = 24 * MIB + 65536  # of no whole block of a VHD
SAFE = "/etc/sxm/qcow2-blktap"


@pytest.fixture(scope="module")
def lab():
    with Lab(plan=PLAN, release="xcp-ng-8.3") as lab:
        for host in lab.hosts:
            host.at_switch(at_switch.script(lab))
        yield lab


@pytest.fixture(scope="module")
def scene(lab):
    return Scene(lab, (SIZE,))


def disk_of(scene):
    (vdi,) = [scene.pool.xapi.VBD.get_VDI(vbd) for vbd in scene.record["VBDs"]]
    return scene.pool.xapi.VDI.get_record(vdi)


def move(scene, sr, kind, warned):
    before = scene.guest.status()["writes_acknowledged"]
    arguments = dict(scene.within(sr), **{"image-format:" + disk_of(scene)["uuid"]: kind})
    answer = scene.call("migrate", **arguments)
    assert answer["state"] == "succeeded", answer
    assert bool(answer["warnings"]) is warned, answer["warnings"]
    scene.wait_for_writes(50)
    checked, status = scene.guest.check(), scene.guest.status()
    assert (checked["missing"], status["missing"], status["errors"]) == (0, 0, 0), status
    assert status["writes_acknowledged"] > before
    figures = scene.host.xenopsd("VM.stat", id=scene.uuid)["migration"]
    assert figures["at_switch"]["exit"] == 0, figures
    assert leftovers.at_rest(scene.lab) == []
    return disk_of(scene)


def test_to_vhd_and_back_while_the_vm_runs(lab, scene):
    disk = disk_of(scene)
    assert (disk["sm_config"]["image-format"], int(disk["virtual_size"])) == ("qcow2", SIZE)
    disk = move(scene, "big", "vhd", warned=True)
    assert (disk["sm_config"]["image-format"], int(disk["virtual_size"])) == ("vhd", 26 * MIB)
    # now with several requests at a time, which that tapdisk bears, up to seven
    with open(scene.host.root + "/usr/bin/rpm") as rpm:
        assert "3.55.5-6.7.xcpng8.3" in rpm.read()
    os.makedirs(os.path.dirname(scene.host.root + SAFE), exist_ok=True)
    with open(scene.host.root + SAFE, "w") as safe:
        safe.write("3.55.5-6.7.xcpng8.3\n")
    nbd_server.choose(scene.host.root, nbd_server.STALLS)
    disk = move(scene, "fast", "qcow2", warned=False)
    assert (disk["sm_config"]["image-format"], int(disk["virtual_size"])) == ("qcow2", 26 * MIB)


def test_while_the_collector_merges_below_the_disk_by_tapdisk(lab, scene):
    """All the time, from just after the beginning. It may leave its mark on the disk, and have the
    mirror taken up again; it costs no write."""
    api = scene.pool.xapi.VDI
    reply.choose(scene.host.root, "prompt")  # SM pokes no tapdisk that it pauses
    for _ in range(3):
        scene.wait_for_writes(20)
        vdi = api.get_by_uuid(disk_of(scene)["uuid"])
        api.destroy(api.snapshot(vdi, {}))
    collector = Collector(scene)
    migration = scene.begin(**scene.within("big"))
    with collector.never_resting() as did:
        entry = scene.ended(migration, scene.host)
    assert entry["state"] == "succeeded", entry["error"]
    assert any(line.startswith("Remote coalesce") for line in did), did
    scene.wait_for_writes(50)
    checked, status = scene.guest.check(), scene.guest.status()
    assert (checked["missing"], status["missing"], status["errors"]) == (0, 0, 0), status
    assert leftovers.at_rest(scene.lab) == []


def test_four_tebibytes_of_a_halted_vm(lab):
    """More than a VHD can hold, with little data in it."""
    pool, size = lab.pool("A"), 4 << 40
    fast, big = pool.sr("a1", "fast"), pool.sr("a1", "big")
    vm = pool.create_vm("large", [(fast, size)], {})
    (vdi,) = [pool.xapi.VBD.get_VDI(vbd) for vbd in pool.xapi.VM.get_VBDs(vm)]
    uuid = pool.xapi.VDI.get_uuid(vdi)
    path = "%s/srs/fast/%s.qcow2" % (lab.host("a1").root, uuid)
    places = (0, (2 << 40) - 65536, size - 65536)
    for place in places:
        qemu_io(path, "write -P 0x5a %d 64k" % place)
    host = pool.host_ref("a1")
    given = {"vm": pool.xapi.VM.get_uuid(vm), "destination-sr-uuid": pool.xapi.SR.get_uuid(big)}
    asked = "image-format:" + uuid
    with pytest.raises(Exception, match="makes a disk of vhd of 2040.0 GiB at most"):
        pool.xapi.host.call_plugin(host, "sxm.py", "migrate", dict(given, **{asked: "vhd"}))
    pool.xapi.VDI.add_to_sm_config(vdi, "relinking", "True")
    with pytest.raises(Exception, match="SM has left relinking=True in its sm_config"):
        pool.xapi.host.call_plugin(host, "sxm.py", "migrate", given)
    pool.xapi.VDI.remove_from_sm_config(vdi, "relinking")
    answer = json.loads(pool.xapi.host.call_plugin(host, "sxm.py", "migrate", given))
    assert answer["state"] == "succeeded" and answer["disks"][0]["copied"] == 65536 * len(places)
    (moved,) = [pool.xapi.VBD.get_VDI(vbd) for vbd in pool.xapi.VM.get_VBDs(vm)]
    record = pool.xapi.VDI.get_record(moved)
    assert (record["SR"], int(record["virtual_size"])) == (big, size)
    path = "%s/srs/big/%s.qcow2" % (lab.host("a1").root, record["uuid"])
    for place in places:
        qemu_io(path, "read -P 0x5a %d 64k" % place)
    pool.xapi.VDI.destroy(moved)
    pool.xapi.VM.destroy(vm)


@pytest.fixture
def others(lab):
    """SRs of types whose stock drivers derive from FileSR: {type: its ref}."""
    pool, host = lab.pool("A"), lab.host("a1")
    for name in ("SMBSR", "XFSSR", "ZFSSR"):
        install.add_driver(host.root, name)
    host.stop_xapi()
    host.start_xapi()
    pool.forget_session()
    made = {}
    for kind in ("smb", "xfs", "zfs"):
        location = os.path.join(host.root, "srs", kind)
        os.makedirs(location)
        made[kind] = pool.xapi.SR.create(
            pool.host_ref("a1"), {"location": location}, "0", kind, "", kind, "user", False, {}
        )
    return made


def test_from_and_to_each_type_of_sr_that_only_xcp_ng_has(lab, others):
    """One live move: a disk comes from each of them, and one goes to each."""
    pool, host, kinds = lab.pool("A"), lab.host("a1"), ["smb", "xfs", "zfs"]
    vm = pool.create_vm("types", [(others[kind], 8 * MIB) for kind in kinds], {"writes": 20})
    uuid = pool.start_vm(vm, "a1")

    def disks():
        vbds = [pool.xapi.VBD.get_record(vbd) for vbd in pool.xapi.VM.get_VBDs(vm)]
        vdis = [
            pool.xapi.VDI.get_record(vbd["VDI"])
            for vbd in sorted(vbds, key=lambda vbd: int(vbd["userdevice"]))
        ]
        return [(vdi["uuid"], pool.xapi.SR.get_type(vdi["SR"])) for vdi in vdis]

    assert [kind for _, kind in disks()] == kinds
    goals = kinds[1:] + kinds[:1]
    given = {
        "vdi:" + vdi: pool.xapi.SR.get_uuid(others[goal]) for (vdi, _), goal in zip(disks(), goals)
    }
    answer = json.loads(
        pool.xapi.host.call_plugin(pool.host_ref("a1"), "sxm.py", "migrate", dict(given, vm=uuid))
    )
    assert answer["state"] == "succeeded", answer
    assert [kind for _, kind in disks()] == goals
    guest = host.guest(uuid)
    checked, status = guest.check(), guest.status()
    assert (checked["missing"], status["missing"], status["errors"]) == (0, 0, 0), status
    figures = host.xenopsd("VM.stat", id=uuid)["migration"]
    assert figures["at_switch"]["exit"] == 0, figures
    assert leftovers.at_rest(lab) == []
    pool.xapi.VM.hard_shutdown(vm)
    for vdi, _ in disks():
        pool.xapi.VDI.destroy(pool.xapi.VDI.get_by_uuid(vdi))
    pool.xapi.VM.destroy(vm)


def qemu_io(path, command):
    done = subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", command, path],
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    assert b"failed" not in done.stdout, done.stdout
