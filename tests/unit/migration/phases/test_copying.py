# SPDX-License-Identifier: LGPL-2.1-only
"""What a copy sends of a disk: all of it, or as far as its images differ from those of the disk
that it is based on."""

import contextlib
import json

import pytest

from fake_migration import make_plan
from storage_motion.errors import CopyFailed, MirrorBroken, SmFault, VmChanged
from storage_motion.migration.phases import copying

ALL, SOME = {"size": 1024, "extents": [[0, 1024]]}, {"size": 1024, "extents": [[0, 512]]}


class World:
    id, verified = "m", "/run/v0-0.map"

    def __init__(self, monkeypatch, base="b", fault=None, **entry):
        self.plan = make_plan()
        self.disk_of_plan = self.plan.disks[0]._replace(base=base)
        self.entry = dict({"migration": "m", "state": "mirroring", "blank": False}, **entry)
        self.asked, self.fault, self.sent, self.limited = [], fault, None, None
        self.known = {"b", "k", "snapshot"}
        monkeypatch.setattr(copying, "ask", self.ask)
        monkeypatch.setattr(copying.snapshots, "find_again", lambda m, disk, uuid: None)
        monkeypatch.setattr(copying, "Records", lambda session: self)
        self.source, self.breaks_after, self.sr_type = None, None, "lvm"
        monkeypatch.setattr(copying.mirror_health, "watch", self.watch)

    def watch(self, _):
        if self.asked and self.asked[-1] == self.breaks_after:
            raise MirrorBroken("another")
        return {}

    def ref(self, class_name, uuid):
        return uuid if uuid in self.known else None

    def by_uuid(self, class_name, uuid):
        assert (class_name, uuid) == ("SR", self.disk_of_plan.source_sr)
        return "ref", {"type": self.sr_type}

    def ask(self, m, disk, command, vdi, args=(), timeout=None):
        self.asked.append((command, vdi) + tuple(args))
        if command == "vdi_extents" and args:
            assert self.sr_type == "ext" or self.entry["base_open"] == "b", (
                "it could not be closed after a crash"
            )
            if self.fault:
                raise SmFault(command, self.fault, "no")
            return json.dumps(SOME)
        return json.dumps(ALL)

    def disk(self, key):
        return self.entry

    def note(self, key, **fields):
        self.entry.update(fields)

    def pulse(self):
        pass

    def limit(self, bandwidth):
        if self.sent is None:  # before the first byte
            self.limited = bandwidth

    def mover(self, key):
        return self

    def copy(self, source, extents, blank, heading, compare, known, based):
        assert heading == {"migration": "m", "snapshot": "snapshot", "contents": None}
        self.sent, self.before = (extents, blank, compare, based), known

    def begin(self, verified=None):
        copying.begin(self, self.disk_of_plan, self, "snapshot", verified)
        return self.sent


def test_one_that_is_based_on_nothing(monkeypatch):
    world = World(monkeypatch, base="", blank=True)
    assert world.begin() == (ALL, True, False, False)
    assert world.asked == [("vdi_copy_open", "snapshot"), ("vdi_extents", "snapshot")]


@pytest.mark.parametrize("bandwidth, told", [(6 << 20, 6 << 20), (0, None)])
def test_a_bandwidth_holds_from_the_first_byte_on(monkeypatch, bandwidth, told):
    world = World(monkeypatch, base="", bandwidth=bandwidth)
    world.begin()
    assert world.limited == told


def test_as_far_as_it_differs(monkeypatch):
    """On LVM the base's images are there only while it is open."""
    world = World(monkeypatch)
    assert world.begin() == (SOME, False, False, True)
    assert world.asked == [
        ("vdi_copy_open", "snapshot"),
        ("vdi_copy_open", "b"),
        ("vdi_extents", "snapshot", "b"),
        ("vdi_copy_close", "b"),
    ]
    assert world.entry["copy_open"] == "snapshot" and world.entry["base_open"] is None


def test_a_base_in_a_file_is_not_opened(monkeypatch):
    world = World(monkeypatch)
    world.sr_type = "ext"
    assert world.begin() == (SOME, False, False, True)
    assert world.asked == [("vdi_copy_open", "snapshot"), ("vdi_extents", "snapshot", "b")]
    assert world.entry["base_open"] is None


def test_images_that_know_nothing_of_each_other_are_compared_whole(monkeypatch):
    world = World(monkeypatch, fault=copying.UNRELATED)
    assert world.begin() == (ALL, False, True, False)
    assert world.asked[-2:] == [("vdi_copy_close", "b"), ("vdi_extents", "snapshot")]


def test_what_else_fails_closes_the_base(monkeypatch):
    world = World(monkeypatch, fault=1200)
    with pytest.raises(SmFault):
        world.begin()
    assert world.asked[-1] == ("vdi_copy_close", "b") and world.entry["base_open"] is None


def test_a_mirror_that_is_made_anew_trusts_no_base(monkeypatch):
    """The guest has written to the destination since it was cloned."""
    world = World(monkeypatch, renewed=True)
    assert world.begin() == (ALL, False, True, False)
    assert ("vdi_copy_open", "b") not in world.asked


def on_a_vdi_that_was_there(monkeypatch, **entry):
    world = World(monkeypatch, base="", **entry)
    world.disk_of_plan = world.disk_of_plan._replace(base_there="t")
    world.plan = world.plan._replace(disks=[world.disk_of_plan], history=[])
    return world


def test_all_of_a_clone_of_what_was_there_before_is_compared(monkeypatch):
    assert on_a_vdi_that_was_there(monkeypatch).begin() == (ALL, False, True, False)


@pytest.mark.parametrize(
    "holds, data, compared", [(True, 1 << 20, True), (True, 1, False), (False, 1 << 20, False)]
)
def test_what_is_given_to_be_filled_is_compared_if_it_holds_something(
    monkeypatch, holds, data, compared
):
    """Not for a disk that is larger than four times what it holds."""
    world = World(monkeypatch, base="", holds=holds)
    disk = world.disk_of_plan = world.disk_of_plan._replace(target="t", size=4 << 20, data=data)
    world.plan = world.plan._replace(disks=[disk], history=[])
    assert world.begin() == (ALL, False, compared, False)


@pytest.mark.parametrize("images", [["t"], ["t", "p"]])
def test_a_vdi_to_fill_is_on_images_of_others_if_there_are_some(monkeypatch, images):
    world = World(monkeypatch, base="", holds=True, renewed=True, images=images)
    world.disk_of_plan = world.disk_of_plan._replace(target="t")
    world.plan = world.plan._replace(disks=[world.disk_of_plan], history=[])
    looked = []
    monkeypatch.setattr(copying.verified_before, "look", lambda *_: looked.append(True))
    world.begin("/run/v0-0.map")
    assert bool(looked) is (images == ["t"]), "what was verified may have gone with an image"


def test_where_it_could_not_be_cloned_all_is_sent(monkeypatch):
    assert on_a_vdi_that_was_there(monkeypatch, blank=True).begin() == (ALL, True, False, False)


def test_what_is_on_images_of_others_is_compared_again_whatever_was_verified(monkeypatch):
    world = on_a_vdi_that_was_there(monkeypatch, renewed=True)
    monkeypatch.setattr(copying.verified_before, "look", lambda *_: pytest.fail("it is trusted"))
    assert world.begin("/run/v0-0.map") == (ALL, False, True, False) and world.before is None


@pytest.mark.parametrize("now", [["d", "p", "q"], ["d", "q"]])
def test_a_copy_on_images_that_were_merged_meanwhile_is_done_again(monkeypatch, now):
    world = on_a_vdi_that_was_there(monkeypatch, images=["d", "p", "q"])
    world.destination, world.destination_vdi = None, lambda disk: "ref"
    monkeypatch.setattr(copying.room, "image_names", lambda records, vdi: now)
    monkeypatch.setattr(copying.waiting, "until", lambda *_: None)
    monkeypatch.setattr(copying.bandwidth, "Share", lambda *_: None)
    if now == world.entry["images"]:
        copying.await_end(world, world.disk_of_plan)
        assert world.entry["state"] == "mirroring"
        return
    with pytest.raises(MirrorBroken, match="SM has merged images below VDI d"):
        copying.await_end(world, world.disk_of_plan)
    assert world.entry["state"] == "broken"


@pytest.mark.parametrize("renewed", [True, False])
def test_what_was_verified_before_is_looked_for_where_a_copy_is_taken_up_again(
    monkeypatch, renewed
):
    world = World(monkeypatch, base="", renewed=renewed)
    known = copying.verified_before.Known("/run/v0-0.map", SOME)
    monkeypatch.setattr(
        copying.verified_before,
        "look",
        lambda m, disk, snapshot, verified, since: since(snapshot, "b") and known,
    )
    world.begin("/run/v0-0.map")
    assert world.before == (known if renewed else None)
    assert (("vdi_extents", "snapshot", "b") in world.asked) is renewed
    assert world.entry["base_open"] is None if renewed else "base_open" not in world.entry
    assert world.entry["verified_windows"] == "/run/v0-0.map"


def test_what_is_open_is_closed_whoever_died(monkeypatch):
    world = World(monkeypatch, copy_open="snapshot", base_open="b")
    copying.close(world, world.disk_of_plan)
    copying.close(world, world.disk_of_plan)
    assert world.asked == [("vdi_copy_close", "snapshot"), ("vdi_copy_close", "b")]


def test_what_somebody_has_destroyed_is_closed_all_the_same(monkeypatch):
    """The storage manager knows its tapdisk by a record of ours: xapi's is gone."""
    world = World(monkeypatch, copy_open="snapshot")
    world.known.discard("snapshot")
    copying.close(world, world.disk_of_plan)
    copying.close(world, world.disk_of_plan)
    assert world.asked == [("sr_copy_close", None, "snapshot")]


@pytest.mark.parametrize(
    "opened, known, raises",
    [
        ("snapshot", True, None),
        ("snapshot", False, CopyFailed),  # and is taken up again, with another snapshot
        ("k", False, VmChanged),
        (None, True, None),
    ],
)
def test_what_was_destroyed_while_it_was_copied_is_not_taken_for_copied(
    monkeypatch, opened, known, raises
):
    world = World(monkeypatch, copy_open=opened)
    if not known:
        world.known.discard(opened)
    status = {"copy": {"state": "done"}}
    monkeypatch.setattr(copying.mirror_health, "watch", lambda m: {"k": status})
    monkeypatch.setattr(copying.bandwidth, "Share", lambda m, key: world)
    monkeypatch.setattr(world, "keep", lambda statuses: None, raising=False)
    with contextlib.ExitStack() as expected:
        if raises:
            expected.enter_context(pytest.raises(raises))
        copying.await_end(world, world.disk_of_plan)


@pytest.mark.parametrize(
    "command, closes",
    [
        (("vdi_copy_open", "snapshot"), []),
        (("vdi_extents", "snapshot"), []),
        (("vdi_copy_open", "b"), [("vdi_copy_close", "b")]),
    ],
)
def test_a_mirror_that_breaks_meanwhile_waits_for_one_command_and_no_more(
    monkeypatch, command, closes
):
    world = World(monkeypatch, base="", renewed=True)
    monkeypatch.setattr(
        copying.verified_before,
        "look",
        lambda m, disk, snapshot, verified, since: since(snapshot, "b"),
    )
    world.breaks_after = command
    with pytest.raises(MirrorBroken):
        world.begin("/run/v0-0.map")
    assert world.asked[world.asked.index(command) + 1 :] == closes and world.sent is None
