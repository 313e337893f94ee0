# SPDX-License-Identifier: LGPL-2.1-only
"""Twelve VMs with forty disks are moved, whatever dies and fails: no limit is ever exceeded, no VM
is begun twice, and the summary adds up."""

import os
import xml.parsers.expat
import xmlrpc.client

import pytest
import XenAPI
from hypothesis import given, settings, strategies as st

from evacuated_pool import Dies, EvacuatedPool
from storage_motion.api import dead_worker
from storage_motion.cli.evacuation import account as accounts, codes, summary
from storage_motion.cli.evacuation.order import Limits
from storage_motion.cli.evacuation.parts import VM, Disk, Left, Planned
from storage_motion.cli.evacuation.run import OUTAGE, Clock, Evacuation, PoolAway
from storage_motion.cli.evacuation.state import StateError, StateFile

MIB = 1 << 20
DISKS = (1, 2, 3, 4, 5, 3, 4, 4, 3, 4, 3, 4)  # of each VM: forty
LIMITS = Limits(4, 3, 3)
BROKEN = ["SXM_CONNECTION_LOST", "reset"]
FULL = ["SXM_DESTINATION_FULL", "vdi", "no space"]


@pytest.fixture(scope="module", autouse=True)
def not_synced():
    """No power is lost here (test_state.py), and thousands of syncs take long."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda number: None)
        yield


def vm(number, disks):
    name = "vm%02d" % number
    return Planned(
        vm=name,
        name=name,
        disks=tuple(
            Disk("%s-%d" % (name, at), "d", "xvd%d" % at, (number + 1) * MIB, MIB, "old", new)
            for at, new in enumerate(["new1" if number % 2 else "new2"] * disks)
        ),
        arguments={"vm": name},
        hosts=tuple(sorted({"h%d" % (number % 3), "h%d" % (number % 2)})),
    )


PLANNED = [vm(number, disks) for number, disks in enumerate(DISKS)]


class Silent:
    def __init__(self):
        self.said = []

    def event(self, event, account):
        pass

    def look(self, account, statuses):
        pass

    def say(self, text):
        self.said.append(text)


def evacuation(pool, file, limits=LIMITS, retries=2):
    return Evacuation(pool, file, limits, retries, Silent(), {}, Clock(lambda: pool.now, pool.wait))


def begin(run, planned=PLANNED, left=()):
    run.note(accounts.ASKED, request={})
    for one in planned:
        run.note(accounts.PLANNED, planned=one.to_json())
    for one in left:
        run.note(accounts.LEFT, left=one._asdict())
    run.note(accounts.BEGUN)


def evacuated(pool, tmp_path, **options):
    file = StateFile.open("it", str(tmp_path))
    run = evacuation(pool, file, **options)
    begin(run)
    try:
        return run.go()
    finally:
        file.close()


def states(account):
    return {course.planned.vm: course.state for course in account.courses.values()}


def test_all_move_within_the_limits(tmp_path):
    pool = EvacuatedPool(PLANNED)
    account = evacuated(pool, tmp_path)
    assert set(states(account).values()) == {accounts.MOVED}
    assert account.finished
    assert pool.most["all"] == 3, "the SR that they leave is the narrowest"
    found = summary.of(account)
    assert found["moved"] == found["asked"] == {
        "vms": 12, "disks": 40, "bytes": sum(one.size for one in PLANNED)
    }  # fmt: skip
    assert found["bytes_sent"] == 40 * MIB


DURATIONS = st.dictionaries(
    st.sampled_from([one.vm for one in PLANNED]), st.floats(0.0, 60.0), max_size=12
)
FATES = st.dictionaries(
    st.sampled_from([one.vm for one in PLANNED]),
    st.lists(st.sampled_from([None, BROKEN, FULL, ["SXM_NOT_CLEANED_UP", "x"]]), min_size=1),
    max_size=12,
)


@settings(max_examples=60)
@given(DURATIONS, FATES, st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(1, 5))
def test_no_limit_is_exceeded(tmp_path_factory, durations, fates, most, host, sr, at_host):
    pool = EvacuatedPool(PLANNED, fates, durations, at_host)
    account = evacuated(pool, tmp_path_factory.mktemp("state"), limits=Limits(most, host, sr))
    assert account.over and summary.of(account)["not_done"]["vms"] == 0
    assert pool.most["all"] <= min(most, at_host)
    for place, number in pool.most.items():
        assert number <= {"h": host, "n": sr, "o": sr}.get(place[0], most), place
    assert all(1 <= pool.starts(one.vm) <= 3 for one in PLANNED), "two retries"


def test_what_fails_for_good_is_tried_once(tmp_path):
    pool = EvacuatedPool(PLANNED, {"vm07": [FULL]})
    account = evacuated(pool, tmp_path)
    assert states(account)["vm07"] == accounts.FAILED and pool.starts("vm07") == 1
    found = summary.of(account)
    assert (found["moved"]["disks"], found["failed"]["disks"]) == (36, 4)
    (failed,) = [one for one in found["vms"] if one["state"] == accounts.FAILED]
    assert failed["code"] == "SXM_DESTINATION_FULL" and "make room" in failed["do"]
    assert failed["data"] == "at the source, untouched"


def test_what_may_be_better_later_is_tried_again_and_not_at_once(tmp_path):
    pool = EvacuatedPool(PLANNED, {"vm07": [BROKEN, BROKEN, None]})
    account = evacuated(pool, tmp_path)
    assert states(account)["vm07"] == accounts.MOVED
    first, second, third = [one for one in pool.migrations if one["vm"] == "vm07"]
    assert second["begun"] - first["ends"] >= 10 and third["begun"] - second["ends"] >= 20
    pool = EvacuatedPool(PLANNED, {"vm07": [BROKEN]})
    account = evacuated(pool, tmp_path / "never")
    assert states(account)["vm07"] == accounts.FAILED and pool.starts("vm07") == 3


def test_too_many_is_queued_and_no_try(tmp_path):
    """xapi takes three at a time; four may run by our limits."""
    pool = EvacuatedPool(PLANNED, at_host=1)
    account = evacuated(pool, tmp_path, limits=Limits(4, 4, 4), retries=0)
    assert set(states(account).values()) == {accounts.MOVED}
    assert pool.most["all"] == 1 and all(pool.starts(one.vm) == 1 for one in PLANNED)


def test_room_that_others_give_back_is_waited_for(tmp_path):
    no_room = (
        "SXM_BAD_ARGUMENTS",
        "vm: SR x (old) has 0.10 GiB free, and needs 1.00 GiB: snapshots",
    )
    pool = EvacuatedPool(PLANNED, durations={one.vm: 20.0 for one in PLANNED})
    pool.refused["vm03"] = [no_room] * 2
    account = evacuated(pool, tmp_path)
    assert set(states(account).values()) == {accounts.MOVED}
    pool = EvacuatedPool(PLANNED[:1])
    pool.refused["vm00"] = [no_room] * 3
    file = StateFile.open("alone", str(tmp_path))
    run = evacuation(pool, file)
    begin(run, PLANNED[:1])
    assert states(run.go()) == {"vm00": accounts.FAILED}, "nobody gives any back"
    assert not pool.refused["vm00"] and pool.now >= 1030, "though it was asked for again, later"


def test_one_that_has_arrived_has_moved_whatever_was_left(tmp_path):
    pool = EvacuatedPool(PLANNED, {"vm02": [["SXM_ARRIVED_HALTED", "vm02"]]})
    account = evacuated(pool, tmp_path)
    assert states(account)["vm02"] == accounts.MOVED and pool.starts("vm02") == 1
    assert any("SXM_ARRIVED_HALTED" in line for line in summary.lines(account))


def test_what_a_migration_has_left_is_told(tmp_path):
    pool = EvacuatedPool(PLANNED, {"vm02": [FULL]})
    pool.left = {"vm02": ["undo-sync: VDI x"], "vm03": ["cleanup: VDI y"]}
    account = evacuated(pool, tmp_path)
    shown = summary.lines(account)
    assert "    left: undo-sync: VDI x" in shown and "    left: cleanup: VDI y" in shown
    assert "    its data: %s" % summary.LOOK in shown


def test_it_waits_for_a_pool_that_is_away(tmp_path):
    pool = EvacuatedPool(PLANNED)
    pool.away = 30
    assert set(states(evacuated(pool, tmp_path)).values()) == {accounts.MOVED}
    pool = EvacuatedPool(PLANNED)
    pool.away = 10**6
    with pytest.raises(PoolAway):
        evacuated(pool, tmp_path / "gone")
    assert pool.now <= 1000 + OUTAGE + 10
    pool.away = 0
    file = StateFile.open("it", str(tmp_path / "gone"))
    assert set(states(evacuation(pool, file).go()).values()) == {accounts.MOVED}


def test_an_answer_that_is_lost_is_looked_for(tmp_path):
    pool = EvacuatedPool(PLANNED)
    pool.dies_at = {2: "answer lost", 5: "answer lost"}
    account = evacuated(pool, tmp_path)
    assert set(states(account).values()) == {accounts.MOVED}
    assert all(pool.starts(one.vm) == 1 for one in PLANNED)


def test_a_migration_that_nobody_knows_any_more_is_not_begun_again(tmp_path):
    pool = EvacuatedPool(PLANNED[:2])
    file = StateFile.open("it", str(tmp_path))
    run = evacuation(pool, file)
    begin(run, PLANNED[:2])
    run.note(accounts.START, vm="vm00", known=[])
    run.note(accounts.STARTED, vm="vm00", migration="of-a-dead-host")
    assert states(run.go()) == {"vm00": accounts.FAILED, "vm01": accounts.MOVED}
    assert pool.starts("vm00") == 0
    (failed,) = [one for one in summary.of(run.account)["vms"] if one["state"] == "failed"]
    assert failed["data"].startswith("not known")


def test_one_that_nobody_is_at_is_told_and_left(tmp_path, monkeypatch):
    monkeypatch.setattr(dead_worker, "FOLLOWED", -1.0)
    pool = EvacuatedPool(PLANNED, durations={"vm05": 10**6})
    pool.alone = ("vm05",)
    account = evacuated(pool, tmp_path)
    assert states(account)["vm05"] == accounts.FAILED and pool.starts("vm05") == 1
    (failed,) = [one for one in summary.of(account)["vms"] if one["state"] == accounts.FAILED]
    assert failed["code"] == "SXM_WORKER_DIED" and "recover" in failed["do"]
    assert "has not ended" in failed["data"]


@pytest.mark.parametrize(
    "event", [{"event": "danced"}, {"event": "moved", "vm": "nobody"}, {"event": "planned"}]
)
def test_a_file_of_another_version_is_told_and_not_guessed_at(tmp_path, event):
    file = StateFile.open("it", str(tmp_path))
    file.note(at=1.0, **event)
    with pytest.raises(StateError, match="does not know"):
        evacuation(EvacuatedPool(PLANNED), file)


def crashes(pool, tmp_path, at, cut=None):
    """Evacuate, with a process that dies as it is to write its `at`-th line. `cut`: that many bytes
    of it are there. Whether it died."""
    file = StateFile.open("it", str(tmp_path))
    real, lines = file.note, []

    def note(**event):
        if len(lines) == at:
            if cut is not None:
                with open(file.path, "ab") as stream:
                    stream.write(b'{"event": "started", "vm": "vm00", "migra'[:cut])
            raise Dies
        lines.append(event)
        real(**event)

    file.note = note
    run = evacuation(pool, file)
    try:
        begin(run)
        run.go()
        return False
    except Dies:
        return True
    finally:
        file.close()


def goes_on(pool, tmp_path):
    """As the command does: from the file, if it has been begun by it."""
    file = StateFile.open("it", str(tmp_path))
    try:
        run = evacuation(pool, file)
        if not run.account.begun:
            file.put_away()
            run = evacuation(pool, file)
            begin(run)
        return run.go()
    finally:
        file.close()


FATE = {"vm07": [FULL], "vm04": [BROKEN, None]}


@pytest.mark.parametrize("meanwhile", [0.0, 2.0, 500.0])
def test_it_dies_at_every_line_and_goes_on(tmp_path, meanwhile):
    at, died = 0, True
    while died:
        pool, place = EvacuatedPool(PLANNED, FATE), tmp_path / str(at)
        died = crashes(pool, place, at, cut=at % 41 if at % 2 else None)
        pool.wait(meanwhile)
        account = goes_on(pool, place)
        assert {name for name, state in states(account).items() if state != accounts.MOVED} == {
            "vm07"
        }
        for one in PLANNED:
            assert pool.starts(one.vm) == (2 if one.vm == "vm04" else 1), (at, one.vm)
        found = summary.of(account)
        assert (found["asked"]["disks"], found["moved"]["disks"]) == (40, 36)
        assert found["failed"] == {"vms": 1, "disks": 4, "bytes": 4 * 8 * MIB}
        at += 1
    assert at > 50


@pytest.mark.parametrize("when", ["before", "after"])
def test_it_dies_within_a_start_and_goes_on(tmp_path, when):
    for call in range(1, 14):
        pool, place = EvacuatedPool(PLANNED), tmp_path / str(call)
        pool.dies_at = {call: when}
        try:
            evacuated(pool, place)
        except Dies:
            pass
        pool.wait(1.0)
        account = goes_on(pool, place)
        assert set(states(account).values()) == {accounts.MOVED}
        assert all(pool.starts(one.vm) == 1 for one in PLANNED)


def test_a_start_that_xapi_carries_out_late_is_gone_on_with(tmp_path):
    """Who asked for it has died; it begins when it has been looked for in vain, and the VM is asked
    for again."""
    pool = EvacuatedPool(PLANNED[:1], durations={"vm00": 30.0})
    file = StateFile.open("it", str(tmp_path))
    run = evacuation(pool, file)
    begin(run, PLANNED[:1])
    run.note(accounts.START, vm="vm00", known=[])
    pool.late = {"vm": "vm00", "wait": "false"}
    account = run.go()
    assert states(account) == {"vm00": accounts.MOVED} and pool.starts("vm00") == 1
    assert [event["event"] for event in file.events[4:7]] == ["not-started", "starting", "started"]


def test_what_was_left_counts_as_skipped(tmp_path):
    pool = EvacuatedPool(PLANNED)
    file = StateFile.open("it", str(tmp_path))
    run = evacuation(pool, file)
    begin(run, PLANNED, [Left(VM, "u", "golden", 2, MIB, "is a template", "copy it")])
    found = summary.of(run.go())
    assert found["asked"]["disks"] == 42 and found["skipped"]["disks"] == 2
    assert any("golden" in line for line in summary.lines(run.account))


def told(account, name):
    return next(one for one in summary.of(account)["vms"] if one["name"] == name)


@pytest.mark.parametrize("code", ["CANNOT_CONTACT_HOST", "HOST_OFFLINE", "SXM_UNREACHABLE", "NEW"])
def test_of_one_that_runs_and_of_which_there_is_no_word_nothing_is_claimed(tmp_path, code):
    """It may be in its switch, whatever the question has failed with."""
    pool = EvacuatedPool(PLANNED[:2])
    file = StateFile.open("it", str(tmp_path))
    run = evacuation(pool, file)
    begin(run, PLANNED[:2])
    run.note(accounts.START, vm="vm00", known=[])
    run.note(accounts.STARTED, vm="vm00", migration="of-that-host")
    real = pool._status

    def status(given):
        if given["migration"] == "of-that-host":
            raise XenAPI.Failure([code, "x"])
        return real(given)

    pool._status, pool._on = status, lambda *_: XenAPI.Failure([code, "x"])
    assert states(run.go()) == {"vm00": accounts.FAILED, "vm01": accounts.MOVED}
    failed = told(accounts.of(file.events), "vm00")
    assert (failed["code"], failed["data"], failed["do"]) == (code, codes.UNKNOWN, codes.RECOVER)


def test_of_one_that_nobody_is_at_behind_the_point_of_no_return_nothing_is_claimed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(dead_worker, "FOLLOWED", -1.0)
    pool = EvacuatedPool(PLANNED, durations={"vm05": 10**6})
    pool.alone = pool.committed = ("vm05",)
    failed = told(evacuated(pool, tmp_path), "vm05")
    assert failed["state"] == accounts.FAILED and failed["data"] == codes.UNKNOWN


@pytest.mark.parametrize(
    "error, left, data",
    [
        (["SXM_ARRIVED_HALTED", "vm02"], [], codes.WHOLE),
        (["SXM_NOT_CLEANED_UP", "VDI x: busy"], [], codes.WHOLE),
        (["SXM_NOT_CLEANED_UP", "VM x is running at the source as well"], [], codes.UNSURE),
        (["SXM_NOT_CLEANED_UP", "VDI x was not verified at the destination"], [], codes.UNSURE),
        (["SXM_INTERNAL", "x"], [], codes.UNSURE),
        (None, ["cleanup: VDI y"], codes.WHOLE),
    ],
)
def test_one_that_has_moved_and_wants_somebody_is_not_complete(tmp_path, error, left, data):
    pool = EvacuatedPool(PLANNED, {"vm02": [error]})
    pool.committed, pool.left = ("vm02",), {"vm02": left}
    account = evacuated(pool, tmp_path)
    one = told(account, "vm02")
    assert one["state"] == accounts.MOVED and one["data"] == data and one["do"]
    assert not summary.complete(account)
    assert any(line == "    its data: %s" % data for line in summary.lines(account))
    assert summary.complete(evacuated(EvacuatedPool(PLANNED), tmp_path / "well"))


@pytest.mark.parametrize(
    "error",
    [
        xmlrpc.client.ProtocolError("h/", 500, "Internal Server Error", {}),
        xmlrpc.client.Fault(1, "x"),
        xmlrpc.client.ResponseError(),
        xml.parsers.expat.ExpatError("no element found"),
        ValueError("Expecting value"),
    ],
)
def test_what_a_xapi_that_is_restarted_answers_is_waited_for(tmp_path, error):
    pool = EvacuatedPool(PLANNED)
    pool.away, pool.away_with = 5, error
    assert set(states(evacuated(pool, tmp_path)).values()) == {accounts.MOVED}


def test_a_fault_of_ours_is_no_pool_that_is_away(tmp_path):
    file = StateFile.open("it", str(tmp_path))
    run = evacuation(EvacuatedPool(PLANNED), file)
    begin(run)
    run._look_for = run._start = lambda course: {}[1:]
    with pytest.raises(TypeError):
        run.go()


def test_what_a_try_has_left_is_told_though_the_next_one_has_moved_the_vm(tmp_path):
    pool = EvacuatedPool(PLANNED, {"vm07": [BROKEN, None]})
    pool.left = {"vm07": ["undo-sync: VDI x"]}
    real = pool._status
    pool._status = lambda given: dict(real(given), **({} if real(given)["error"] else {"left": []}))
    account = evacuated(pool, tmp_path)
    assert states(account)["vm07"] == accounts.MOVED
    assert told(account, "vm07")["left"] == ["undo-sync: VDI x"] and not summary.complete(account)
    assert len(account.courses["vm07"].migrations) == 2


def test_a_start_that_comes_late_and_fails_was_a_try(tmp_path):
    pool = EvacuatedPool(PLANNED[:1], {"vm00": [FULL]}, {"vm00": 0.0})
    file = StateFile.open("it", str(tmp_path))
    run = evacuation(pool, file)
    begin(run, PLANNED[:1])
    run.note(accounts.START, vm="vm00", known=[])
    real = file.note

    def note(**event):
        real(**event)
        if event["event"] == accounts.NOT_STARTED:
            pool.plugin("migrate", vm="vm00", wait="false")

    file.note = note
    assert states(run.go()) == {"vm00": accounts.FAILED}
    assert pool.starts("vm00") == 1, "it is that one, and no other is begun"


def test_a_host_that_does_not_tell_holds_up_its_own_vms_only(tmp_path):
    pool = EvacuatedPool(PLANNED)
    pool.silent = ("h2",)
    account = evacuated(pool, tmp_path)
    its = {one.vm for one in PLANNED if "h2" in one.hosts}
    assert {name for name, state in states(account).items() if state != accounts.MOVED} == its
    assert its and all(pool.starts(name) == 0 for name in its)
    assert OUTAGE < pool.now - 1000 < OUTAGE + 60
    assert told(account, min(its))["code"] == "XENAPI_PLUGIN_FAILURE"

    pool = EvacuatedPool(PLANNED)
    pool.silent = ("h0",)
    with pytest.raises(PoolAway):  # the master begins them all
        evacuated(pool, tmp_path / "master")
    assert not pool.migrations

    pool = EvacuatedPool(PLANNED)
    pool.silent, real = ("h2",), pool.wait

    def wait(seconds):
        real(seconds)
        pool.silent = ("h2",) if pool.now < 1300 else ()

    pool.wait = wait
    account = evacuated(pool, tmp_path / "later")
    assert set(states(account).values()) == {accounts.MOVED}
    assert all(pool.starts(one.vm) == 1 for one in PLANNED)


def test_a_start_of_which_its_host_does_not_tell_is_not_known(tmp_path):
    pool = EvacuatedPool(PLANNED[:3])
    file = StateFile.open("it", str(tmp_path))
    run = evacuation(pool, file)
    begin(run, PLANNED[:3])
    run.note(accounts.START, vm="vm02", known=[])
    pool.silent = ("h2",)
    account = run.go()
    assert states(account)["vm02"] == accounts.FAILED and pool.starts("vm02") == 0
    assert told(account, "vm02")["data"] == codes.UNKNOWN
    assert states(account)["vm00"] == accounts.MOVED


def test_one_that_is_listed_and_has_no_status_is_not_waited_for_for_ever(tmp_path):
    pool = EvacuatedPool(PLANNED[:2], durations={"vm00": 10**6})
    file = StateFile.open("it", str(tmp_path))
    run = evacuation(pool, file)
    begin(run, PLANNED[:2])
    run.note(accounts.START, vm="vm00", known=[])
    pool.plugin("migrate", vm="vm00", wait="false")
    real = pool._status

    def status(given):
        if given["migration"] == "m0":
            raise XenAPI.Failure(["SXM_JOURNAL", "m0"])
        return real(given)

    pool._status, pool._on = status, lambda *_: XenAPI.Failure(["SXM_JOURNAL", "m0"])
    account = run.go()
    assert states(account) == {"vm00": accounts.FAILED, "vm01": accounts.MOVED}
    assert told(account, "vm00")["data"] == codes.UNKNOWN and pool.starts("vm00") == 1


def test_each_time_that_a_host_does_not_tell_counts_by_itself(tmp_path):
    """The second one is within the patience, though the first was long ago."""
    pool = EvacuatedPool(PLANNED, {"vm02": [BROKEN, None]}, {"vm02": 1000.0})
    real = pool.wait

    def wait(seconds):
        real(seconds)
        pool.silent = ("h2",) if pool.now < 1300 or 2300 < pool.now < 2400 else ()

    wait(0.0)
    pool.wait = wait
    account = evacuated(pool, tmp_path)
    assert states(account)["vm02"] == accounts.MOVED and pool.starts("vm02") == 2
