# SPDX-License-Identifier: LGPL-2.1-only
"""The plugin's part of a selftest keeps its hands off what is not the selftest's own."""

import os
import subprocess
import sys

import pytest

from api_world import pool  # noqa: F401
from fake_migration import ID, make_plan
from fake_pool import add_vdi, add_vm, by_name, uuid_of
from storage_motion.api import functions, selftest
from storage_motion.api.selftest_marks import MADE, MADE_VDI, MADE_VM, NAME, TESTED
from storage_motion.dom0 import launch
from storage_motion.errors import (
    BadArguments,
    DiskInUse,
    NoSuchMigration,
    NotOfSelftest,
    NotRunning,
    TooLate,
)
from storage_motion.journal.journal import Journal
from storage_motion.migration import migration
from storage_motion.plan.checks import CLAIM
from storage_motion.sm import repeated_commands

OWN, OTHER = "0123abcd", "ffff0000"
DISK_FUNCTIONS = ("selftest-digest", "selftest-fill", "selftest-release")


@pytest.fixture
def commands(monkeypatch):
    """What the storage manager was asked for: [(command, VDI's UUID)]. None is carried out."""
    asked = []

    def ask(session, sr_uuid, command, vdi_uuid=None, args=()):
        asked.append((command, vdi_uuid))
        raise AssertionError(command)

    monkeypatch.setattr(repeated_commands, "ask", ask)
    return asked


def add(pool, vm_marks, vdi_marks, state="Halted", attached=False, mode="RW", **changes):
    """A VM with a disk: the disk's UUID."""
    host, sr = by_name(pool, "host", "a1"), by_name(pool, "SR", "a1-sr")
    network = by_name(pool, "network", "guests")
    vdi = add_vdi(pool, sr, other_config=vdi_marks, **changes)
    vm = add_vm(pool, host, [vdi], network, power_state=state, other_config=vm_marks)
    if vdi_marks:
        record = pool.tables["VM"][vm]
        record["other_config"] = dict({MADE_VM: record["uuid"]}, **vm_marks)
    for vbd in pool.tables["VM"][vm]["VBDs"]:
        pool.tables["VBD"][vbd].update(currently_attached=attached, mode=mode)
    return uuid_of(pool, "VDI", vdi)


def call(pool, function, vdi, of=OWN):
    """The plugin's function for that VDI."""
    return functions.call(function, pool, {"selftest": of, "vdi": vdi})


@pytest.mark.parametrize("function", DISK_FUNCTIONS)
def test_a_disk_of_another_vm_is_left_alone(pool, commands, function):
    for vm_marks, vdi_marks in (
        ({}, {}),
        ({TESTED: OTHER}, {MADE: OTHER}),
        ({}, {MADE: OWN}),  # somebody has given the selftest's disk to a VM of his own
    ):
        vdi = add(pool, vm_marks, vdi_marks)
        with pytest.raises(NotOfSelftest):
            call(pool, function, vdi)
    assert commands == [] and pool.calls == []


@pytest.mark.parametrize("function", ["selftest-fill", "selftest-release"])
def test_a_disk_of_a_clone_is_not_written_to(pool, commands, function):
    """A clone of its VM, and of the disk, has the marks: xapi copies them."""
    marks = {TESTED: OWN, MADE: OWN, MADE_VM: "11111111-2222-3333-4444-555555555555"}
    with pytest.raises(NotOfSelftest):
        call(pool, function, add(pool, marks, {MADE: OWN}))
    assert commands == []


def test_a_disk_of_the_vm_that_was_named_is_only_read(pool, commands):
    vdi = add(pool, {TESTED: OWN}, {})
    with pytest.raises(NotOfSelftest) as raised:
        call(pool, "selftest-fill", vdi)
    assert raised.value.details[1:] == [OWN, "it has not made it"]
    with pytest.raises(AssertionError):
        call(pool, "selftest-digest", vdi)
    assert commands == [("vdi_copy_open", vdi)]


def test_a_disk_that_no_vm_has_is_its_own_only_by_its_own_uuid(pool, commands):
    """xapi gives a copy, a clone and a snapshot the name and all keys of the original."""
    sr = by_name(pool, "SR", "a1-sr")
    found = {}
    for kind, name in (("own", NAME % OWN), ("copy", NAME % OWN), ("taken over", "mine")):
        vdi = add_vdi(pool, sr, other_config={MADE: OWN}, name_label=name)
        found[kind] = uuid_of(pool, "VDI", vdi)
        of = found["own"] if kind == "copy" else found[kind]
        pool.tables["VDI"][vdi]["other_config"] = {MADE: OWN, MADE_VDI: of}
    for kind in ("copy", "taken over"):
        for function in ("selftest-fill", "selftest-release"):
            with pytest.raises(NotOfSelftest):
                call(pool, function, found[kind])
    assert commands == []
    with pytest.raises(AssertionError):
        call(pool, "selftest-release", found["own"])
    assert commands == [("vdi_copy_close", found["own"])]


@pytest.mark.parametrize("state, marks", [("Halted", {}), ("Running", {TESTED: OWN})])
def test_of_a_vm_that_was_named_a_disk_is_closed_only_while_that_is_halted(
    pool, commands, state, marks
):
    with pytest.raises((NotOfSelftest, DiskInUse)):
        call(pool, "selftest-release", add(pool, marks, {}, state=state))
    assert commands == []


def test_a_disk_of_a_vm_that_was_named_is_closed_and_no_more(pool, monkeypatch):
    asked = []
    monkeypatch.setattr(
        repeated_commands, "ask", lambda session, sr, command, vdi: asked.append((command, vdi))
    )
    vdi = add(pool, {TESTED: OWN}, {}, sm_config={"paused": "storage-motion"})
    call(pool, "selftest-release", vdi)
    assert asked == [("vdi_copy_close", vdi)]


@pytest.mark.parametrize("function", ["selftest-digest", "selftest-fill"])
@pytest.mark.parametrize(
    "how, why",
    [
        (dict(state="Running"), "is Running"),
        (dict(state="Suspended"), "is Suspended"),
        (dict(attached=True), "is plugged"),
        (dict(sm_config={"host_OpaqueRef:x": "RW"}), "host_OpaqueRef:x is RW"),
    ],
)
def test_a_disk_that_may_be_written_to_is_not_opened(pool, commands, function, how, why):
    vdi = add(pool, {TESTED: OWN}, {MADE: OWN}, **how)
    with pytest.raises(DiskInUse) as raised:
        call(pool, function, vdi)
    assert why in raised.value.details[1] and commands == []


@pytest.mark.parametrize("function", DISK_FUNCTIONS)
def test_a_disk_that_a_migration_has_is_left_to_it(pool, commands, function):
    for vm_marks, vdi_marks in (
        ({TESTED: OWN, CLAIM: ID}, {MADE: OWN}),
        ({TESTED: OWN}, {MADE: OWN, CLAIM: ID}),
    ):
        with pytest.raises(DiskInUse):
            call(pool, function, add(pool, vm_marks, vdi_marks))
    assert commands == []


def test_what_would_take_long_is_refused(pool, commands):
    for function, size in (
        ("selftest-fill", selftest.MOST_FILLED + 512),
        ("selftest-digest", selftest.MOST_READ + 512),
    ):
        vdi = add(pool, {TESTED: OWN}, {MADE: OWN}, virtual_size=str(size))
        with pytest.raises(NotOfSelftest) as raised:
            call(pool, function, vdi)
        assert "larger" in raised.value.details[2]
    assert commands == []


@pytest.mark.parametrize("function", DISK_FUNCTIONS + ("selftest-kill",))
def test_an_id_that_is_none_is_refused(pool, function):
    for wrong in ("x", "0123abcd\n", "0123ABCD", "0123abcde"):
        with pytest.raises(BadArguments) as raised:
            functions.call(
                function,
                pool,
                dict(
                    {"selftest": wrong},
                    **({"migration": ID} if function == "selftest-kill" else {"vdi": ID}),
                ),
            )
        assert raised.value.details[0].startswith("selftest: is not the id of a selftest")


def test_the_pattern_is_as_long_as_the_disk_and_has_holes():
    size = 6 * selftest.MIB + 512
    pieces = list(selftest.pattern(OWN, size))
    assert [offset for offset, _ in pieces] == [number * selftest.MIB for number in range(7)]
    assert sum(len(piece) for _, piece in pieces) == size
    assert [any(piece) for _, piece in pieces] == [False, True, True, True, False, True, True]
    assert len({piece for _, piece in pieces if any(piece)}) == 5
    assert list(selftest.pattern(OWN, size)) == pieces != list(selftest.pattern(OTHER, size))


# -- its worker


@pytest.fixture
def worker():
    """A process of that migration."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", ID],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def begin(pool, marks, process, **changes):
    """The journal of a migration of a VM with these marks."""
    vdi = add(pool, marks, {}, state="Running")
    (vbd,) = pool.tables["VDI"][pool.call("VDI", "get_by_uuid", (vdi,))]["VBDs"]
    vm = uuid_of(pool, "VM", pool.tables["VBD"][vbd]["VM"])
    entry = Journal.create(ID, **migration.initial(make_plan(vm=vm)))
    found = launch.Process.of(process.pid)
    entry.write(**dict({"worker": found.to_json(), "phase": "sync"}, **changes))
    return entry


def kill(pool, **changes):
    """selftest-kill on this host."""
    given = dict({"selftest": OWN, "migration": ID, "local": "true"}, **changes)
    return functions.call("selftest-kill", pool, given)


def test_the_worker_of_its_own_migration_is_killed(pool, worker):
    begin(pool, {TESTED: OWN}, worker)
    assert kill(pool)["pid"] == worker.pid
    assert worker.wait(10) == -9


@pytest.mark.parametrize("marks", [{}, {TESTED: OTHER}])
def test_the_worker_of_another_vm_is_not(pool, worker, marks):
    begin(pool, marks, worker)
    with pytest.raises(NotOfSelftest):
        kill(pool)
    assert worker.poll() is None


@pytest.mark.parametrize(
    "changes, error",
    [
        ({"committed": True}, TooLate),
        ({"state": "failed"}, NotRunning),
        ({"worker": None}, NotRunning),
    ],
)
def test_nor_one_that_has_gone_too_far_or_has_ended(pool, worker, changes, error):
    begin(pool, {TESTED: OWN}, worker, **changes)
    with pytest.raises(error):
        kill(pool)
    assert worker.poll() is None


def test_nor_a_process_that_is_no_worker_of_it(pool):
    """The journal names this one; its command line does not name the migration."""

    class Self:
        pid = os.getpid()

    begin(pool, {TESTED: OWN}, Self)
    with pytest.raises(NotRunning):
        kill(pool)


def test_nor_of_a_migration_that_is_not_here(pool):
    with pytest.raises(NoSuchMigration):
        kill(pool)
