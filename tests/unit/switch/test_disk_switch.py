# SPDX-License-Identifier: LGPL-2.1-only
"""The switch: the order of calls, and that no failure lets both sides in."""

import mock
import pytest
from hypothesis import given, settings, strategies as st

from fake_migration import make_plan
from fake_pool import FakePool, add_vdi
from storage_motion.errors import DestinationFull, JournalNotWritten, MirrorBroken, MoverFailed
from storage_motion.journal import steps
from storage_motion.migration import mover_handle
from storage_motion.switch import disk_switch
from tests.eventually import eventually

MARK = "sxm m"
ENDED = {"state": "ended", "clean": True, "error": None}
HOST = "host_OpaqueRef:1"


class FakeMover:
    """Answers `statuses` in turn (the last one again and again); `fails`: what finish raises."""

    key = "disk"

    def __init__(self, log, statuses=(ENDED,), fails=None):
        self.log, self.statuses, self.fails = log, list(statuses), fails

    def status(self):
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    def finish(self, mirrored):
        self.log.append(("finish", mirrored))
        if self.fails:
            raise self.fails


class Disk:
    """A source VDI, its switch, and all that happened in order."""

    def __init__(self, sm_config=(), mirrored=True, **mover):
        self.pool = FakePool("A")
        self.log = self.pool.calls
        self.vdi = add_vdi(self.pool, "OpaqueRef:sr", sm_config=dict(sm_config))
        self.mover = FakeMover(self.log, **mover)
        self.switch = disk_switch.DiskSwitch(
            self.pool,
            self.vdi,
            self.mover,
            mirrored,
            MARK,
            lambda step: self.log.append(("note", step)),
        )

    @property
    def config(self):
        return self.pool.tables["VDI"][self.vdi]["sm_config"]

    @config.setter
    def config(self, value):
        self.pool.tables["VDI"][self.vdi]["sm_config"] = value

    def lead(self, times=200):
        for _ in range(times):
            if self.switch.advance():
                return True
            if self.switch._opening is not None:
                self.switch._opening.join(60)
        return False


def test_the_order():
    disk = Disk()
    assert disk.lead()
    assert disk.log == [
        ("note", "detached"),
        ("note", "locking"),
        ("add_to_sm_config", "VDI", "paused", MARK),
        ("note", "locked"),
        ("note", "opening"),
        ("finish", True),
        ("note", "open"),
    ]


def test_several_disks_are_noted_together_and_one_that_is_behind_keeps_none():
    disks = [Disk() for _ in range(3)]
    for number, disk in enumerate(disks):
        disk.mover.key = "disk %d" % number
    disks[2].config = {HOST: "RW"}
    notes = []

    def advance():
        return disk_switch.advance_all([disk.switch for disk in disks], notes.append)

    both = ["disk 0", "disk 1"]
    eventually(
        lambda: advance() or all(disk.switch.step == "open" for disk in disks[:2]), "two are open"
    )
    assert disks[2].switch.step == "detached"
    # whose gate opens first is not said
    opened = [key for note in notes for key, step in note.items() if step == "open"]
    assert sorted(opened) == both
    assert [
        (sorted(note), set(note.values())) for note in notes if "open" not in note.values()
    ] == [
        (both + ["disk 2"], {"detached"}),
        (both, {"locking"}),
        (both, {"locked"}),
        (both, {"opening"}),
    ]
    disks[2].config = {}
    eventually(advance, "all are open")
    assert all(disk.switch.step == "open" for disk in disks)


def test_what_cannot_be_noted_is_not_reached_by_any():
    disks = [Disk() for _ in range(2)]

    def full(_):
        raise JournalNotWritten("/x", "No space left on device")

    with pytest.raises(JournalNotWritten):
        disk_switch.advance_all([disk.switch for disk in disks], full)
    assert [disk.switch.step for disk in disks] == ["attached"] * 2
    assert all(disk.log == [] for disk in disks)


def test_a_disk_that_was_never_mirrored():
    disk = Disk(mirrored=False, statuses=[{"state": "ready", "clean": False}])
    assert disk.lead() and ("finish", False) in disk.log


@pytest.mark.parametrize(
    "live, served, told, led",
    [
        (True, True, None, False),
        (True, False, "hard-reboot", False),
        (True, False, None, True),
        (False, True, "hard-reboot", True),
    ],
    ids=["guest has it open", "guest closes it itself", "closed for the move", "halted"],
)
def test_a_read_only_disk_is_detached_once_the_guest_has_closed_it_for_the_move(
    monkeypatch, live, served, told, led
):
    pool, note = FakePool("A"), []
    vdi = add_vdi(pool, "OpaqueRef:sr")
    plan = make_plan(live=live)
    disk = plan.disks[0]._replace(read_only=True)
    m = mock.Mock(id="m", source=pool, plan=plan, source_vdi=lambda disk: vdi)
    m.disk = lambda key: {}
    m.mover = lambda key: FakeMover(note)
    monkeypatch.setattr(disk_switch.active, "is_served", lambda sr, vdi: served)
    monkeypatch.setattr(disk_switch.closing, "noted", lambda migration: told)
    switch = disk_switch.of_disk(m, disk)
    eventually(lambda: switch.advance() or not led, "it is led on")
    assert (switch.step == "open") == led and (("finish", False) in note) == led


def test_nothing_happens_while_the_guest_is_attached():
    disk = Disk(statuses=[{"state": "mirroring", "clean": False}])
    assert not disk.lead(5) and disk.log == []


@pytest.mark.parametrize(
    "status",
    [{"state": "broken", "clean": False, "error": "cut"}, {"state": "ended", "clean": False}],
)
def test_a_mirror_that_did_not_end_cleanly_opens_nothing(status):
    disk = Disk(statuses=[status])
    with pytest.raises(MirrorBroken):
        disk.lead()
    assert disk.log == []


def test_a_destination_that_is_full_at_the_switch_is_told_as_such():
    disk = Disk(statuses=[{"state": "broken", "clean": False, "error": "full", "errno": 28}])
    with pytest.raises(DestinationFull):
        disk.lead()
    assert disk.log == []


@pytest.mark.parametrize("key", [HOST, "activating"])
def test_it_waits_until_the_source_is_not_active(key):
    disk = Disk(sm_config={key: "RW"})
    assert not disk.lead(5) and "paused" not in disk.config
    disk.config = {}
    assert disk.lead()


def test_somebody_who_got_in_before_the_mark_is_noticed():
    disk = Disk()
    disk.pool.handlers["VDI.add_to_sm_config"] = lambda ref, key, value: disk.config.update(
        {key: value, HOST: "RW"}
    )
    with pytest.raises(MirrorBroken):
        disk.lead()
    assert ("finish", True) not in disk.log


def test_an_activation_under_way_is_waited_for():
    disk = Disk()
    disk.switch.step = steps.LOCKING
    disk.config = {"paused": MARK, "activating": "True"}
    assert not disk.lead(5) and disk.switch.step == steps.LOCKING
    disk.config = {"paused": MARK}
    assert disk.lead()


def test_a_pause_of_sm_is_not_taken_for_ours():
    disk = Disk(sm_config={"paused": "true"})
    assert not disk.lead(5) and ("finish", True) not in disk.log
    disk.config = {}
    assert disk.lead()


def test_a_lost_answer_does_not_open_without_a_pause():
    disk = Disk()
    answers = iter([OSError("lost"), None])

    def lossy(ref, key, value):
        answer = next(answers)
        if answer:
            raise answer
        disk.config[key] = value

    disk.pool.handlers["VDI.add_to_sm_config"] = lossy
    with pytest.raises(OSError):
        disk.lead()
    assert disk.lead() and disk.config["paused"] == MARK


def test_a_finish_that_fails_leaves_it_unknown():
    disk = Disk(fails=MoverFailed("disk", "no"))
    with pytest.raises(MoverFailed):
        disk.lead()
    assert disk.switch.step == steps.OPENING and disk.config["paused"] == MARK


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["advance", "activate", "look again", "deactivate"]), max_size=30))
def test_no_interleaving_with_sm_lets_both_in(steps):
    """SM's activation as it is: paused? -> write activating -> paused? -> host_ key; in steps
    between ours."""
    disk = Disk()
    for step in steps:
        paused = "paused" in disk.config
        if step == "advance":
            try:
                disk.switch.advance()
            except MirrorBroken:
                return
            if disk.switch._opening is not None:
                disk.switch._opening.join(60)
        elif step == "activate" and not paused and not disk.config:
            disk.config = {"activating": "True"}
        elif step == "look again" and "activating" in disk.config:
            disk.config = {"paused": MARK} if paused else {HOST: "RW"}
        elif step == "deactivate":
            disk.config = {key: value for key, value in disk.config.items() if key != HOST}
        if ("finish", True) in disk.log:
            assert "paused" in disk.config and HOST not in disk.config


STEPS = ["detached", "locking", "locked", "opening", "open"]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_cannot_be_noted_is_not_reached(step):
    """And nothing is done that would have to be known by it; when the journal can be written again
    it goes on."""
    disk = Disk()
    refuses = [True]

    def note(reached):
        if reached == step and refuses[0]:
            raise JournalNotWritten("/x", "No space left on device")
        disk.log.append(("note", reached))

    disk.switch._note = note
    for _ in range(3):
        with pytest.raises(JournalNotWritten):
            disk.lead()
        assert disk.switch.step == (
            STEPS[STEPS.index(step) - 1] if step != "detached" else "attached"
        )
        assert [one[1] for one in disk.log if one[0] == "note"] == STEPS[: STEPS.index(step)]
    if step != "open":
        assert ("finish", True) not in disk.log and (step in ("locked", "opening")) == (
            "paused" in disk.config
        )
    refuses[0] = False
    assert disk.lead() and disk.switch.step == "open"


@pytest.mark.parametrize(
    "error", [MoverFailed("k", "no"), RuntimeError("a fault of ours"), OSError(5, "EIO")]
)
def test_only_a_clear_answer_means_open(error):
    disk = Disk(fails=error)
    with pytest.raises(MoverFailed):
        disk.lead()
    assert disk.switch.step == "opening" and ("note", "open") not in disk.log


@pytest.mark.parametrize(
    "answer, opened",
    [
        ({"ok": True}, True),
        ({}, False),
        ({"ok": "false"}, False),
        ({"ok": 1}, False),
        ({"ok": False}, False),
    ],
)
def test_what_of_a_mover_is_a_clear_answer(tmp_path, monkeypatch, answer, opened):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    monkeypatch.setattr(mover_handle.control_socket, "request", lambda *_: answer)
    mover = mover_handle.MoverHandle("11111111-2222-3333-4444-555555555555", "k", 0)
    try:
        mover.finish(True)
    except MoverFailed:
        assert not opened
    else:
        assert opened


class TellingMover(FakeMover):
    """One that tells of its mirror's end; `looks`: how often its status was asked."""

    looks, over = 0, False

    def status(self):
        self.looks += 1
        return super().status()

    def await_end(self):
        if self.over is None:
            raise MoverFailed(self.key, "it is gone")
        return self.over


def telling():
    disk = Disk()
    disk.mover = disk.switch._mover = TellingMover(
        disk.log, [{"state": "mirroring", "clean": False, "error": None}]
    )
    return disk


@pytest.mark.parametrize("over", [True, None])
def test_a_mover_that_tells_of_the_end_is_hardly_asked_until_then(monkeypatch, over):
    monkeypatch.setattr(disk_switch, "UNTOLD", 3600.0)
    disk = telling()
    assert not disk.switch.await_end()
    for _ in range(9):
        assert not disk.switch.advance()
    assert disk.mover.looks == 1
    disk.mover.over = over  # None: it does not answer, and may never do
    try:
        assert disk.switch.await_end()
    except MoverFailed:
        assert over is None
    disk.mover.statuses = [ENDED]
    assert disk.lead() and disk.mover.looks == 2


def test_one_that_has_not_told_is_asked_all_the_same(monkeypatch):
    monkeypatch.setattr(disk_switch, "UNTOLD", 0.0)
    disk = telling()
    assert not disk.switch.await_end()
    assert not disk.switch.advance()
    disk.mover.statuses = [ENDED]
    assert disk.lead()


def test_xapi_is_hardly_asked_while_sm_still_serves_the_disk(monkeypatch):
    monkeypatch.setattr(disk_switch, "UNTOLD", 3600.0)
    disk = Disk(sm_config={HOST: "RW"})
    served, asked = [True], []
    disk.switch._served = lambda: served[0]
    monkeypatch.setattr(disk_switch.gate, "is_free", lambda config: asked.append(config))
    for _ in range(9):
        disk.switch.advance()
    assert disk.switch.step == steps.DETACHED and len(asked) == 1
    served[0] = False
    for _ in range(3):
        disk.switch.advance()
    assert len(asked) == 4
