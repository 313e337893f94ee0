# SPDX-License-Identifier: LGPL-2.1-only
"""Which VDI of the destination a disk is to be a clone of: found by what was noted, or named."""

import pytest

from fake_pool import GIB, NULL, add_vdi, add_vm, by_name, uuid_of
from plan_world import NOBODY, World, is_refused
from storage_motion.api.arguments import Problems
from storage_motion.plan import bases, room, volumes
from storage_motion.xapi.records import Records
from test_vm_snapshots import WithSnapshots

LONG_AGO = "20260102"


class There(World):
    """`beside`: a VDI in pool A on the same image as the first disk, as its template's disk is;
    `candidate`: a VDI in the SR of pool B that the disks go to."""

    def __init__(self):
        super(There, self).__init__()
        self.image = add_vdi(self.a, self.sr, 2 * GIB, managed=False)
        on_it = {"vhd-parent": uuid_of(self.a, "VDI", self.image)}
        self.disk["sm_config"] = dict(on_it)
        self.beside = add_vdi(self.a, self.sr, 2 * GIB, sm_config=dict(on_it))
        self.there = by_name(self.b, "SR", "b1-sr")
        self.candidate = self.add()

    def add(self, **changes):
        return add_vdi(self.b, self.there, 2 * GIB, **changes)

    record = property(lambda self: self.b.tables["VDI"][self.candidate])

    def note(self, *uuids, when=1):
        self.record["other_config"] = {bases.RELATED: " ".join([str(when)] + list(uuids))}

    def base(self, **changes):
        """(VDI that the first disk is to be a clone of, why); and that nothing is wrong."""
        plan, problems = self.cross(**changes)
        assert problems == []
        (disk,) = [disk for disk in plan.disks if disk.key == self.vdi(0)]
        return disk.base_there, disk.base_why


@pytest.fixture
def world():
    return There()


def test_nothing_that_is_known_of_nothing_is_a_base(world):
    assert world.base() == ("", "")


def test_what_a_disk_notes_of_where_it_comes_from(world):
    old = [NOBODY] * 2 + ["%08d-1111-1111-1111-111111111111" % number for number in range(40)]
    world.disk["other_config"] = {"a": "b", bases.RELATED: " ".join(["7"] + old)}
    plan, _ = world.cross()
    made = {disk.key: disk.other_config for disk in plan.disks}
    when, *noted = made[world.vdi(0)][bases.RELATED].split(" ")
    own = [world.vdi(0)] + [uuid_of(world.a, "VDI", vdi) for vdi in (world.image, world.beside)]
    assert noted[:4] == own + [NOBODY] and len(noted) == len(set(noted)) == bases.MOST
    assert int(when) > 1700000000 and made[world.vdi(0)]["a"] == "b"
    assert made[world.vdi(1)][bases.RELATED].split(" ")[1:] == [world.vdi(1)]
    assert bases.RELATED not in world.a.tables["VDI"][world.vdis[1]]["other_config"]


def test_a_vdi_to_fill_keeps_its_own(world):
    uuid = uuid_of(world.b, "VDI", world.candidate)
    plan, problems = world.cross(**{"vdi:" + world.vdi(0): uuid})
    assert problems == []
    (disk,) = [disk for disk in plan.disks if disk.target]
    assert disk.other_config == {} and disk.base_there == ""


@pytest.mark.parametrize("of", ["itself", "its image", "its template"])
def test_an_older_copy_is_found_by_what_it_notes(world, of):
    known = {"itself": world.vdis[0], "its image": world.image, "its template": world.beside}
    uuid = uuid_of(world.a, "VDI", known[of])
    world.note(NOBODY, uuid)
    base, why = world.base()
    assert base == world.record["uuid"]
    assert why == ("it is a copy of this disk" if of == "itself" else "both come from VDI " + uuid)


def test_where_it_comes_from_is_found_by_what_the_disk_notes(world):
    world.disk["other_config"] = {bases.RELATED: "1 %s %s" % (NOBODY, world.record["uuid"])}
    assert world.base() == (world.record["uuid"], "this disk comes from it")


def test_what_is_on_an_image_that_the_disk_notes(world):
    image = world.add(managed=False)
    world.record["sm_config"] = {"vhd-parent": uuid_of(world.b, "VDI", image)}
    world.disk["other_config"] = {bases.RELATED: "1 " + uuid_of(world.b, "VDI", image)}
    assert world.base()[0] == world.record["uuid"]


def test_a_copy_that_xapi_has_made_of_its_template(world):
    """VDI.copy keeps the content_id, until somebody writes (storage_smapiv1.ml)."""
    world.a.tables["VDI"][world.beside]["other_config"] = {"content_id": "c"}
    world.record["other_config"] = {"content_id": "c"}
    assert world.base() == (world.record["uuid"], "xapi has noted the same contents of it (c)")


def test_the_nearest_and_of_these_the_latest(world):
    template = uuid_of(world.a, "VDI", world.beside)
    world.note(template, when=9)
    for when in (3, 7, 5):
        note = "%d %s" % (when, world.vdi(0))
        last = world.add(other_config={bases.RELATED: note})
        if when == 7:
            latest = uuid_of(world.b, "VDI", last)
    assert world.base() == (latest, "it is a copy of this disk")
    both = "1 %s %s" % (world.vdi(0), template)
    more = uuid_of(world.b, "VDI", world.add(other_config={bases.RELATED: both}))
    assert world.base()[0] == more, "which has more in common"


@pytest.mark.parametrize("holds, found", [(GIB // 2, True), (GIB // 2 - 1, False)])
def test_of_a_disk_that_holds_little_all_is_sent_and_not_all_compared(world, holds, found):
    uuid = uuid_of(world.b, "VDI", world.candidate)
    world.note(world.vdi(0))
    world.disk["physical_utilisation"] = str(holds)
    world.a.tables["VDI"][world.image]["physical_utilisation"] = "0"
    assert world.base()[0] == (uuid if found else "")
    assert world.base(**{"base:" + world.vdi(0): uuid})[0] == uuid, "as somebody wants it"


def test_none_is_looked_for_if_nobody_wants_it(world):
    world.note(world.vdi(0))
    assert world.base(base="none") == ("", "")
    assert world.base(base="auto")[0] == world.record["uuid"]
    assert is_refused(world.cross(base="some"), "base", "auto or none")


def busy(world, vm=None, **vbd):
    network = by_name(world.b, "network", "guests")
    other = add_vm(world.b, NULL, [world.candidate], network, **vm or {})
    (ref,) = world.b.tables["VM"][other]["VBDs"]
    world.b.tables["VBD"][ref].update(vbd)


TEMPLATE = {"is_a_template": True}


def halted(world, vm=None, keep=False, **vbd):
    """A VM has it, and does not run. `keep`: one more."""
    before = world.record["VBDs"] if keep else []
    busy(world, vm, **dict({"currently_attached": False}, **vbd))
    world.record["VBDs"] = before + world.record["VBDs"]


def of_several(world):
    """The SR is LVM, and two hosts have it."""
    on_lvm(world, "vhd")
    sr = world.b.tables["SR"][world.there]
    sr["PBDs"] = sr["PBDs"] + [world.b.add("PBD", **dict(world.b.get("PBD", sr["PBDs"][0])))]


UNFIT = [
    (lambda w: w.record.update(managed=False), "is not managed by xapi"),
    (lambda w: w.record.update(missing=True), "is missing"),
    (lambda w: w.record.update(virtual_size=str(GIB)), "is of another size"),
    (lambda w: w.record.update(type="system"), "is of another type"),
    (lambda w: w.record.update(sharable=True), "is marked as sharable"),
    (lambda w: w.record.update(read_only=True), "is read-only"),
    (lambda w: w.record.update(cbt_enabled=True), "has changed block tracking enabled"),
    (lambda w: w.record.update(on_boot="reset"), "is reset on boot"),
    (lambda w: w.record["sm_config"].update(key_hash="x"), "is encrypted"),
    (lambda w: w.record["sm_config"].update(type="raw"), "is raw"),
    (lambda w: w.record["sm_config"].update({"host_OpaqueRef:1": "RW"}), "is in use"),
    (lambda w: busy(w), "is in use"),
    (lambda w: halted(w, {"current_operations": {"t": "start_on"}}), "is in use"),
    (lambda w: halted(w, current_operations={"t": "attach"}), "is in use"),
    (lambda w: w.record["sm_config"].update(paused="true"), "is held by another operation"),
    (lambda w: w.record["sm_config"].update(relinking="True"), "is held by another operation"),
    (lambda w: w.record["other_config"].update(sxm_migration="m"), "is held by another operation"),
    (
        lambda w: w.record.update(current_operations={"t": "destroy"}),
        "is held by another operation",
    ),
    (lambda w: deep(w, 28), "has too many images below it"),
    (lambda w: on_lvm(w, "qcow2"), "is QCOW2 on LVM"),
    (lambda w: of_several(w), "may be opened on another host meanwhile"),
    (lambda w: (of_several(w), halted(w)), "may be opened on another host meanwhile"),
    (
        lambda w: (of_several(w), halted(w, TEMPLATE), halted(w, keep=True)),
        "may be opened on another host meanwhile",
    ),
    (lambda w: w.record.update(SR=by_name(w.b, "SR", "b2-sr")), "is not in SR"),
]


def deep(world, count):
    vdi = world.record
    for _ in range(count):
        uuid = uuid_of(world.b, "VDI", world.add(managed=False))
        vdi["sm_config"]["vhd-parent"] = uuid
        vdi = world.b.tables["VDI"][world.b.xenapi.VDI.get_by_uuid(uuid)]


def on_lvm(world, kind):
    world.b.tables["SR"][world.there]["type"] = "lvm"
    world.record["sm_config"]["image-format"] = kind


@pytest.mark.parametrize("prepare, part", UNFIT, ids=[part for _, part in UNFIT])
def test_what_cannot_be_cloned_is_no_base_and_refused_where_it_is_named(world, prepare, part):
    world.note(world.vdi(0))
    prepare(world)
    assert world.base() == ("", "")
    argument = "base:" + world.vdi(0)
    assert is_refused(world.cross(**{argument: world.record["uuid"]}), argument, part)


@pytest.mark.parametrize(
    "prepare",
    [
        lambda w: None,
        lambda w: busy(w, currently_attached=False),
        lambda w: w.record.update(is_a_snapshot=True),
        lambda w: w.record.update(current_operations={"t": "copy", "u": "clone"}),
        lambda w: w.record.update(virtual_size=str(2 * GIB + (2 << 20))),
        lambda w: deep(w, 27),
        lambda w: on_lvm(w, "vhd"),
        lambda w: (on_lvm(w, "vhd"), halted(w)),
        lambda w: (of_several(w), halted(w, TEMPLATE)),
        lambda w: (of_several(w), halted(w, {"is_a_snapshot": True})),
        lambda w: (of_several(w), w.record.update(is_a_snapshot=True)),
        lambda w: halted(w, dict(TEMPLATE, current_operations={"t": "clone"})),
    ],
)
def test_one_that_is_named_needs_no_note(world, prepare):
    prepare(world)
    argument = "base:" + world.vdi(0)
    assert world.base(**{argument: world.record["uuid"], "base": "none"}) == (
        world.record["uuid"],
        "it is named",
    )


def test_a_format_that_is_asked_for_is_that_of_the_base(world):
    world.note(world.vdi(0))
    world.record["sm_config"]["image-format"] = "qcow2"
    asked = "image-format:" + world.vdi(0)
    assert world.base(**{asked: "vhd"})[0] == ""
    assert world.base(**{asked: "qcow2"})[0] == world.record["uuid"]


def test_what_is_named_wrongly(world):
    argument = "base:" + world.vdi(0)
    assert is_refused(world.cross(**{argument: NOBODY}), argument, "no VDI " + NOBODY)
    uuid = world.record["uuid"]
    given = {"base:" + NOBODY: uuid}
    assert is_refused(world.cross(**given), "base:" + NOBODY, "is no disk that moves")
    target = uuid_of(world.b, "VDI", world.add())
    given = {argument: uuid, "vdi:" + world.vdi(0): target}
    assert is_refused(world.cross(**given), argument, "the disk fills VDI " + target)
    second = add_vdi(world.b, world.there, GIB)
    given = {"base:" + world.vdi(1): uuid_of(world.b, "VDI", second)}
    given["vdi:" + world.vdi(1)] = None
    given.update({argument: uuid_of(world.b, "VDI", second)})
    assert is_refused(world.cross(**given), argument, "is of another size")


def test_a_disk_that_moves_itself_is_nobodys_base(world):
    shared = by_name(world.a, "SR", "shared")
    argument = "base:" + world.vdi(0)
    given = {"destination-sr-uuid": uuid_of(world.a, "SR", shared), argument: world.vdi(1)}
    world.a.tables["VDI"][world.vdis[1]].update(SR=shared, virtual_size=str(2 * GIB))
    given["vdi:" + world.vdi(1)] = uuid_of(world.a, "SR", world.sr)
    assert is_refused(world.within(**given), argument, "is moved or filled itself")


class Chain(There, WithSnapshots):
    pass


def test_of_a_chain_the_first_has_it():
    world = Chain()
    first = world.disks(world.first)[0]
    plan, problems = world.cross(**{"base:" + world.vdi(0): world.record["uuid"]})
    assert problems == []
    assert {disk.key: disk.base_there for disk in plan.sent if disk.base_there} == {
        first: world.record["uuid"]
    }
    world.note(world.disks(world.second)[0])
    plan, _ = world.cross()
    assert not any(disk.base_there for disk in plan.sent), "the first knows nothing of it"
    world.note(first)
    plan, _ = world.cross()
    assert [disk.key for disk in plan.sent if disk.base_there] == [first]
    assert type(plan).from_json(plan.to_json()) == plan


def test_the_chain_of_snapshots_counts_for_how_long_it_gets():
    world = Chain()
    world.note(world.disks(world.first)[0])
    deep(world, 25)
    plan, _ = world.cross()
    assert [disk.key for disk in plan.sent if disk.base_there] == [world.disks(world.first)[0]]
    world = Chain()
    world.note(world.disks(world.first)[0])
    deep(world, 26)
    plan, _ = world.cross()
    assert not any(disk.base_there for disk in plan.sent)


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("sr_type, snapshot", [("ext", False), ("lvm", False), ("lvm", True)])
def test_without_room_for_the_clone_the_disk_is_sent_whole(
    world, monkeypatch, sr_type, snapshot, missing
):
    """SM wants a new leaf of the VDI that is cloned, too."""
    monkeypatch.setattr(room.repeated_commands, "ask", lambda *_, **__: None)
    world.note(world.vdi(0))
    world.record["is_a_snapshot"] = snapshot
    wanted = {
        ("ext", False): 2 * volumes.file("vhd", 2 * GIB),
        ("lvm", False): volumes.full("vhd", 2 * GIB),
        ("lvm", True): volumes.smallest("vhd", 2 * GIB),
    }[sr_type, snapshot]
    sr = world.b.tables["SR"][world.there]
    sr["type"] = sr_type
    plan, _ = world.cross()
    request = type("Request", (), {"vdis": {}, "retry_limit": 5})
    source, there = Records(world.a), Records(world.b)

    def judged():
        problems = Problems()
        ends = room.data_ends(world.a, source, plan)
        short = room.require(ends, source, Records(world.b), plan, request, problems, [])
        return short, bool(problems)

    low, high = 0, 100 * GIB  # what has to be free for the disks alone
    while low < high:
        sr["physical_utilisation"] = str(100 * GIB - (low + high) // 2)
        low, high = ((low + high) // 2 + 1, high) if judged()[1] else (low, (low + high) // 2)
    sr["physical_utilisation"] = str(100 * GIB - low - wanted + missing)
    short, refused = judged()
    assert not refused and len(short) == missing
    plain = bases.without(plan, short)
    assert sum(bool(disk.base_there) for disk in plain.disks) == 1 - missing
    assert len(bases.cautions(short)) == missing
    assert there.all("SR")
