# SPDX-License-Identifier: LGPL-2.1-only
"""Room: what the storage manager takes, in its own figures, of the SRs at both ends."""

import json
import shutil
import subprocess

import pytest

from fake_pool import GIB, add_vdi, by_name, uuid_of
from plan_world import World
from storage_motion.api.arguments import Problems
from storage_motion.plan import room, volumes
from storage_motion.xapi.records import Records
from test_formats import pbd_of
from test_vm_snapshots import WithSnapshots

MIB = 1 << 20
KIB = 1 << 10
# By sm: vhdutil.calcOverheadEmpty(2 TiB) = 4,329,472 bytes, and 4 KiB for each 2 MiB; extents of 4
# MiB.
FULL_VHD = {GIB: 1032 * MIB, 2 * GIB: 2060 * MIB}
EMPTY_VHD = 8 * MIB
# By `qemu-img measure`, which XCP-ng's sm asks.
FULL_QCOW2 = {GIB: 1028 * MIB, 2 * GIB: 2052 * MIB}
EMPTY_QCOW2 = 4 * MIB


@pytest.mark.parametrize("size", [GIB, 2 * GIB])
def test_volumes_of_vhd_are_what_sm_makes(size):
    assert (
        volumes.full("vhd", size) == FULL_VHD[size] and volumes.smallest("vhd", size) == EMPTY_VHD
    )
    assert volumes.full("raw", size + 512) == size + 4 * MIB


@pytest.mark.parametrize(
    "size", [512, 64 * KIB, GIB, 100 * GIB, 1024 * GIB, 2040 * GIB + 64 * KIB, 17589500641280]
)
def test_volumes_of_qcow2_are_what_qemu_img_measures(size):
    if size in FULL_QCOW2:
        assert volumes.full("qcow2", size) == FULL_QCOW2[size]
    assert shutil.which("qemu-img"), "is needed here"
    said = json.loads(
        subprocess.check_output(
            ["qemu-img", "measure", "-O", "qcow2", "--output=json", "--size", str(size)]
        ).decode()
    )
    extent = volumes.EXTENT
    assert volumes.smallest("qcow2", size) == volumes.roundup(said["required"], extent)
    rounded = volumes.roundup(size, 64 * KIB) - size
    assert volumes.full("qcow2", size) == volumes.roundup(said["fully-allocated"] - rounded, extent)


class Room(World):
    """A move, with what its disks have in their own images (`ends`: {VDI: bytes or None})."""

    def __init__(self, monkeypatch):
        super(Room, self).__init__()
        self.ends, self.asked = {}, []
        monkeypatch.setattr(room.repeated_commands, "ask", self._ask)

    def _ask(self, session, sr, command, vdi, args=(), timeout=None):
        assert (session, command) == (self.a, "vdi_data_end")
        self.asked.append(vdi)
        end = self.ends.get(vdi)
        return str(end) if end else None

    def sr_of(self, pool, name, **fields):
        free = fields.pop("free", None)
        record = pool.tables["SR"][by_name(pool, "SR", name)]
        if free is not None:
            fields["physical_utilisation"] = str(100 * GIB - free)
        record.update(fields)
        return record

    def problems(self, retry_limit=5, within=False, **changes):
        plan, wrong = (self.within if within else self.cross)(**changes)
        assert wrong == []
        found, source = Problems(), Records(self.a)
        vdis = {name[4:]: value for name, value in changes.items() if name.startswith("vdi:")}
        request = type("Request", (), {"vdis": vdis, "retry_limit": retry_limit})
        ends = room.data_ends(self.a, source, plan)
        room.require(ends, source, source if within else Records(self.b), plan, request, found, [])
        return found.details


@pytest.fixture
def world(monkeypatch):
    return Room(monkeypatch)


DATA = GIB // 2 + GIB  # of both disks, by xapi's records
FILES = 16 * KIB  # two files of VHDs while nothing is in them: 8 KiB each


def disks_of(kind):
    return sum((FULL_VHD if kind == "vhd" else FULL_QCOW2).values()) + 2 * volumes.JOURNAL


@pytest.mark.parametrize(
    "sr_type, sm_config, kind, needed",
    [
        ("ext", {}, "vhd", DATA + FILES),
        ("nfs", {}, "vhd", DATA + FILES),
        ("lvm", {}, "vhd", disks_of("vhd")),
        (
            "lvm",
            {"allocation": "thin"},
            "vhd",
            disks_of("vhd"),
        ),  # SM inflates what is to be written to
        ("lvmoiscsi", {"allocation": "thick"}, "qcow2", disks_of("qcow2")),
    ],
)
@pytest.mark.parametrize("missing", [0, 1])
def test_room_for_all_disks_that_go_there(world, sr_type, sm_config, kind, needed, missing):
    world.sr_of(world.b, "b1-sr", type=sr_type, sm_config=sm_config, free=needed - missing)
    pbd_of(world.b, "b1-sr")["device_config"] = {"preferred-image-formats": kind}
    found = world.problems()
    assert len(found) == missing
    if missing:
        assert found[0].startswith("destination-sr-uuid: SR ") and found[0].endswith(
            "an SR with room"
        )
        assert "GiB for the disks that go there (2)" in found[0]


def test_room_of_a_disk_to_fill_is_what_it_has_not_yet(world):
    """A thin SR's is small until it is written to; of a file the data may lie where it has none."""
    record = world.sr_of(world.b, "b1-sr", type="lvm", free=FULL_VHD[GIB] + 2 * volumes.JOURNAL)
    target = add_vdi(
        world.b,
        by_name(world.b, "SR", "b1-sr"),
        2 * GIB,
        physical_utilisation=str(FULL_VHD[2 * GIB]),
    )
    given = {"vdi:" + world.vdi(0): uuid_of(world.b, "VDI", target)}
    assert world.problems(**given) == []
    world.b.tables["VDI"][target]["physical_utilisation"] = str(FULL_VHD[2 * GIB] - 4 * MIB)
    assert world.problems(**given)[0].startswith("destination-sr-uuid, vdi:%s: " % world.vdi(0))
    record.update(type="ext", physical_utilisation=str(100 * GIB - DATA))
    world.b.tables["VDI"][target]["physical_utilisation"] = str(GIB + GIB // 2)
    assert world.problems(**given) == []


@pytest.mark.parametrize("allocation", ["thick", "thin"])
@pytest.mark.parametrize("sr_type", ["lvm", "lvmoiscsi", "lvmohba"])
@pytest.mark.parametrize("retry", [5, 0])
@pytest.mark.parametrize("missing", [0, 1])
def test_snapshots_on_lvm_of_all_disks_and_one_more(world, sr_type, allocation, retry, missing):
    """The new leaf has its whole size, the base is left what is in it: two, and 8 MiB for each
    snapshot; the larger once more, unless nothing is to be taken up again."""
    world.ends = {world.vdi(0): 1500 * MIB - 5, world.vdi(1): 100 * MIB}
    needed = 1500 * MIB + 100 * MIB + 2 * EMPTY_VHD + 2 * volumes.JOURNAL
    needed += 1500 * MIB + EMPTY_VHD if retry else 0
    world.sr_of(
        world.a, "a1-sr", type=sr_type, sm_config={"allocation": allocation}, free=needed - missing
    )
    found = world.problems(retry)
    assert len(found) == missing and sorted(world.asked) == sorted(world.vdi(n) for n in (0, 1))
    if missing:
        assert found[0].startswith("vm: SR ") and "snapshots of disks (2), which stay" in found[0]
        assert found[0].endswith(
            "make room there, or say retry-limit=0" if retry else "make room there"
        )


def test_what_lacks_for_the_snapshots_themselves_no_limit_of_retries_mends(world):
    world.sr_of(world.a, "a1-sr", type="lvm", free=GIB)
    (found,) = world.problems()
    assert found.endswith("; make room there")


@pytest.mark.parametrize(
    "config, needed",
    [
        ({"image-format": "qcow2"}, FULL_QCOW2[2 * GIB] + EMPTY_QCOW2),
        ({}, FULL_VHD[2 * GIB] + EMPTY_VHD),
    ],
)
def test_a_base_that_sm_does_not_shrink_or_of_which_nothing_is_known(world, config, needed):
    """XCP-ng's never shrinks a QCOW2 (qcow2util.py, getSizePhys)."""
    world.disk["sm_config"] = config
    world.ends = {world.vdi(1): 20 * MIB}
    needed += 20 * MIB + EMPTY_VHD + 2 * volumes.JOURNAL
    record = world.sr_of(world.a, "a1-sr", type="lvm", free=needed)
    assert world.problems(retry_limit=0) == []
    record["physical_utilisation"] = str(int(record["physical_utilisation"]) + 1)
    assert len(world.problems(retry_limit=0)) == 1


@pytest.mark.parametrize("missing", [0, 1])
def test_snapshots_on_files_are_two_empty_images_each(world, missing):
    world.sr_of(world.a, "a1-sr", free=2 * FILES + 2 * 8 * KIB - missing)
    assert len(world.problems()) == missing and world.asked == []


def test_a_halted_vm_needs_no_snapshots(world):
    world.vm.update(power_state="Halted")
    world.sr_of(world.a, "a1-sr", type="lvm", free=0)
    assert world.problems() == [] and world.asked == []


def test_an_sr_that_disks_leave_and_come_to_needs_room_for_both(world):
    """Within the pool: the first disk goes from a1-sr to the shared SR, the second the other
    way."""
    shared = by_name(world.a, "SR", "shared")
    world.a.tables["VDI"][world.vdis[1]]["SR"] = shared
    given = {
        "vdi:" + world.vdi(0): uuid_of(world.a, "SR", shared),
        "vdi:" + world.vdi(1): uuid_of(world.a, "SR", world.sr),
    }
    world.ends = {world.vdi(0): 100 * MIB}
    needed = FULL_VHD[GIB] + 100 * MIB + EMPTY_VHD + 2 * volumes.JOURNAL
    world.sr_of(world.a, "a1-sr", type="lvm", free=needed)
    assert world.problems(retry_limit=0, within=True, **given) == []
    world.sr_of(world.a, "a1-sr", free=needed - 1)
    (found,) = world.problems(retry_limit=0, within=True, **given)
    assert "for the disks that go there (1)" in found and "snapshots of disks (1)" in found


def test_what_is_in_a_volume_counts_and_not_its_size(world):
    """A thick volume of 2 GiB with 100 MiB in it goes to a directory as 100 MiB."""
    world.sr_of(world.a, "a1-sr", type="lvm")
    world.disk["physical_utilisation"] = str(FULL_VHD[2 * GIB])
    world.ends = {world.vdi(0): 100 * MIB, world.vdi(1): 50 * MIB}
    world.sr_of(world.b, "b1-sr", free=150 * MIB + FILES)
    assert world.problems() == []
    world.sr_of(world.b, "b1-sr", free=150 * MIB + FILES - 1)
    assert len(world.problems()) == 1


def test_a_plan_says_what_is_in_a_volume_and_not_its_size(world):
    """And leaves what is not known better as xapi's records have it."""
    world.sr_of(world.a, "a1-sr", type="lvm")
    world.disk["physical_utilisation"] = str(FULL_VHD[2 * GIB])
    world.ends = {world.vdi(0): 100 * MIB}
    plan, source = world.cross()[0], Records(world.a)
    found = room.with_data(plan, source, room.data_ends(world.a, source, plan))
    first, second = world.vdi(0), world.vdi(1)
    assert {disk.key: disk.data for disk in plan.disks} == {first: 2 * GIB, second: GIB // 2}
    assert {disk.key: disk.data for disk in found.disks} == {first: 100 * MIB, second: GIB // 2}


def test_data_is_that_of_the_whole_chain_and_at_most_the_size(world):
    base = add_vdi(world.a, world.sr, 2 * GIB, physical_utilisation=str(GIB // 4))
    world.disk.update(
        sm_config={"vhd-parent": uuid_of(world.a, "VDI", base)}, physical_utilisation=str(GIB // 4)
    )
    records = Records(world.a)
    assert room.data_of(records, world.disk) == GIB // 2
    assert room.data_of(records, world.disk, 5) == GIB // 4 + 5
    assert room.data_of(records, world.disk, 9 * GIB) == 2 * GIB
    shared = {"uuid": "other", "physical_utilisation": "0", "sm_config": world.disk["sm_config"]}
    assert room.data_of(records, world.disk, base=shared) == GIB // 4


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("sr_type", ["ext", "lvm"])
def test_room_for_the_disks_of_snapshots(monkeypatch, sr_type, missing):
    """Of two snapshots of both disks: what is each one's own, below an empty image. On LVM one of
    them at a time has its whole size, as it is filled."""
    world = WithSnapshots()
    monkeypatch.setattr(room.repeated_commands, "ask", lambda *_, **__: None)
    for ref in (world.first, world.second):
        for number in (0, 1):
            world.of_disk(ref, number)["physical_utilisation"] = str(100 * MIB)
    if sr_type == "lvm":
        needed = disks_of("vhd") + 4 * (100 * MIB + 2 * EMPTY_VHD)
        needed += FULL_VHD[2 * GIB] - 100 * MIB - EMPTY_VHD
    else:
        needed = DATA + FILES + 4 * (100 * MIB + FILES)
    sr = world.b.tables["SR"][by_name(world.b, "SR", "b1-sr")]
    sr.update(type=sr_type, physical_utilisation=str(100 * GIB - needed + missing))
    found, (plan, wrong) = Problems(), world.cross()
    assert wrong == []
    request = type("Request", (), {"vdis": {}, "retry_limit": 5})
    source = Records(world.a)
    ends = room.data_ends(world.a, source, plan)
    room.require(ends, source, Records(world.b), plan, request, found, [])
    assert len(found.details) == missing
    if missing:
        assert found.details[0].startswith("destination-sr-uuid, snapshots: SR ")
        assert "GiB for the disks of the VM's snapshots (4)" in found.details[0]
        assert found.details[0].endswith("an SR with room, or fewer snapshots")
