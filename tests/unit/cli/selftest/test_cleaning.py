# SPDX-License-Identifier: LGPL-2.1-only
"""What selftests made is taken away, and nothing else: their marks may be on what is not theirs."""

import pytest

from fake_pool import add_vdi, add_vm, by_name, failure, uuid_of
from storage_motion.api.selftest_marks import MADE, MADE_VDI, MADE_VM, NAME, TESTED

OWN, OTHER = "0123abcd", "ffff0000"


@pytest.fixture
def world(sxm):
    """Pool paris, whose plugin knows no migration."""
    paris = sxm.pools["paris"]
    paris.handlers["VM.hard_shutdown"] = lambda ref: paris.tables["VM"][ref].update(
        power_state="Halted"
    )
    sxm.answers.update({"list": {"migrations": []}, "selftest-release": {}})
    return sxm


def made(paris, marks=None, disk_marks=None, **changes):
    """A VM as a selftest makes it: (its ref, its disk's ref)."""
    host, sr = by_name(paris, "host", "p1"), by_name(paris, "SR", "p1-sr")
    vdi = add_vdi(paris, sr, other_config={MADE: OWN} if disk_marks is None else disk_marks)
    own = {TESTED: OWN, MADE: OWN} if marks is None else marks
    vm = add_vm(
        paris, host, [vdi], by_name(paris, "network", "guests"),
        **dict({"other_config": dict(own)}, **changes),
    )  # fmt: skip
    if marks is None:
        paris.tables["VM"][vm]["other_config"][MADE_VM] = uuid_of(paris, "VM", vm)
    return vm, vdi


def alone(paris, selftest, name=None, of=None):
    """A disk that no VM has, as a selftest makes it, or a copy of the disk `of`: (its ref, UUID)"""
    vdi = add_vdi(paris, by_name(paris, "SR", "shared"), name_label=name or NAME % selftest)
    uuid = uuid_of(paris, "VDI", vdi)
    paris.tables["VDI"][vdi]["other_config"] = {MADE: selftest, MADE_VDI: of or uuid}
    return vdi, uuid


def destroyed(paris):
    """{(class, UUID)}"""
    return {call[1:] for call in paris.calls if call[0] == "destroy"}


def test_its_vm_and_disk_are_destroyed(world):
    paris = world.pools["paris"]
    vm, vdi = made(paris)
    theirs = {("VM", uuid_of(paris, "VM", vm)), ("VDI", uuid_of(paris, "VDI", vdi))}
    theirs.add(("VDI", alone(paris, OWN)[1]))
    seen = world("selftest", "--clean", "--yes")
    assert seen.status == 0, seen.err
    assert destroyed(paris) == theirs
    released = [given["selftest"] for _, function, given in world.asked if "release" in function]
    assert released == [OWN] * 3, "on each host that sees the disk"
    paris.calls.clear()
    assert world("selftest", "--clean").out == "nothing is left\n"
    assert paris.calls == []


def test_a_clone_of_its_vm_is_its_users(world):
    paris = world.pools["paris"]
    marks = {TESTED: OWN, MADE: OWN, MADE_VM: "11111111-2222-3333-4444-555555555555"}
    made(paris, marks)
    made(paris, marks, is_a_snapshot=True)
    made(paris, {TESTED: OWN, MADE: OWN})  # whose making was interrupted has no disk
    assert world("selftest", "--clean", "--yes").out == "nothing is left\n"
    assert paris.calls == []


@pytest.mark.parametrize("kind", ["copy", "without its VM", "taken over", "before this version"])
def test_a_disk_without_a_vm_that_may_be_somebodys_is_told_and_stays(world, kind):
    """xapi gives a copy, a clone and a snapshot the name and all keys of the original."""
    paris = world.pools["paris"]
    if kind != "without its VM":
        _, own = made(paris)
    changes = {
        "copy": {"of": "11111111-2222-3333-4444-555555555555"},
        "taken over": {"name": "mine"},
    }
    vdi, uuid = alone(paris, OWN, **changes.get(kind, {}))
    if kind == "before this version":
        del paris.tables["VDI"][vdi]["other_config"][MADE_VDI]
    seen = world("selftest", "--clean", "--yes")
    assert seen.status == 0 and vdi in paris.tables["VDI"]
    assert uuid in seen.err and "it may be a copy, and stays" in seen.err.replace("\n", " ")
    assert "nothing else is left" in seen.out


def test_a_disk_that_another_vm_has_too_is_left(world):
    paris = world.pools["paris"]
    vm, vdi = made(paris)
    other, _ = made(paris, {}, {})
    vbd = paris.add("VBD", VM=other, VDI=vdi, type="Disk", mode="RO", currently_attached=True)
    paris.tables["VDI"][vdi]["VBDs"] = paris.tables["VDI"][vdi]["VBDs"] + [vbd]
    uuid = uuid_of(paris, "VM", vm)
    world("selftest", "--clean", "--yes")
    assert destroyed(paris) == {("VM", uuid)}


def test_a_vm_that_was_named_loses_the_mark_alone(world):
    paris = world.pools["paris"]
    vm, _ = made(paris, {TESTED: OWN, "else": "x"}, {})
    seen = world("selftest", "--clean", "--yes")
    assert "the mark is taken from VM web, and nothing else is done to it" in seen.out
    assert paris.calls == [("remove_from_other_config", "VM", TESTED)]
    assert [function for _, function, _ in world.asked] == []
    assert paris.tables["VM"][vm]["other_config"] == {"else": "x"}


@pytest.mark.parametrize("kind", ["closed", "not closed"])
def test_a_halted_vm_that_was_named_has_its_disks_closed_before_it_loses_the_mark(world, kind):
    """A digest that was killed has left one open, and SM keeps the VM from starting: on each host
    that sees it, one in maintenance, too. With the mark it can be tried again."""
    paris = world.pools["paris"]
    vm, vdi = made(paris, {TESTED: OWN}, {}, power_state="Halted")
    paris.tables["host"][by_name(paris, "host", "p1")]["enabled"] = False
    marked = []

    def close(given):
        marked.append(TESTED in paris.tables["VM"][vm]["other_config"])
        if kind == "not closed":
            raise failure("SXM_DISK_IN_USE", "VDI", "tapdisk 7 still has it open")
        return {}

    world.answers["selftest-release"] = close
    seen = world("selftest", "--clean", "--yes")
    asked = [given for _, function, given in world.asked if function == "selftest-release"]
    assert [(given["selftest"], given["vdi"]) for given in asked] == [
        (OWN, uuid_of(paris, "VDI", vdi))
    ]
    assert marked == [True] and destroyed(paris) == set()
    if kind == "closed":
        assert seen.status == 0 and paris.tables["VM"][vm]["other_config"] == {}
    else:
        assert seen.status == 4 and "tapdisk 7 still has it open" in seen.err
        assert paris.tables["VM"][vm]["other_config"] == {TESTED: OWN}


def test_what_stays_is_told_and_hinders_nothing_else(world):
    """A disk keeps its VM: without it nobody could tell it from a copy of it, and it would stay."""
    paris = world.pools["paris"]
    _, vdi = made(paris)
    stays = uuid_of(paris, "VDI", vdi)
    other, _ = made(paris)
    goes = uuid_of(paris, "VM", other)

    def refuse(given):
        if given["vdi"] == stays:
            raise failure("SXM_DISK_IN_USE", "VDI", "migration x has it")
        return {}

    world.answers["selftest-release"] = refuse
    seen = world("selftest", "--clean", "--yes")
    assert seen.status == 4 and "migration x has it" in seen.err
    assert [uuid for name, uuid in destroyed(paris) if name == "VM"] == [goes]
    assert vdi in paris.tables["VDI"]


def test_a_migration_of_its_vm_is_ended_first_and_no_other(world):
    paris = world.pools["paris"]
    vm, _ = made(paris)
    named, _ = made(paris, {TESTED: OTHER}, {})
    running = [
        dict(migration=name, vm=uuid_of(paris, "VM", ref), state=state)
        for name, ref, state in (
            ("its", vm, "running"),
            ("ended", vm, "failed"),
            ("theirs", named, "running"),
        )
    ]
    world.answers["list"] = {"migrations": running}
    world.answers["cancel"] = lambda given: paris.calls.append(("cancel", given["migration"])) or {}
    world("selftest", "--clean", "--yes")
    assert [call for call in paris.calls if call[0] in ("cancel", "destroy")][0] == (
        "cancel",
        "its",
    )
    assert ("cancel", "theirs") not in paris.calls and ("cancel", "ended") not in paris.calls


def test_one_that_nobody_drives_is_recovered(world):
    paris = world.pools["paris"]
    vm, _ = made(paris)
    uuid = uuid_of(paris, "VM", vm)
    world.answers["list"] = {"migrations": [dict(migration="m", vm=uuid, state="running")]}

    def dead(_):
        raise failure("SXM_WORKER_DIED", "m", "sync")

    recovered = []
    world.answers["cancel"] = dead
    world.answers["recover"] = lambda given: recovered.append(given["migration"]) or {}
    world.answers["status"] = {"state": "failed"}
    assert world("selftest", "--clean", "--yes").status == 0
    assert recovered == ["m", "m"] and ("VM", uuid) in destroyed(paris)


def test_nothing_is_done_without_a_yes(world):
    paris = world.pools["paris"]
    made(paris)
    seen = world("selftest", "--clean")
    assert seen.status == 2 and "give --yes" in seen.err
    assert paris.calls == []
