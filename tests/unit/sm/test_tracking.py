# SPDX-License-Identifier: LGPL-2.1-only
"""Tracking is begun and ended with the guest seen to, whatever xapi and SM make of it."""

import contextlib

import pytest
import XenAPI

from fake_pool import add_vdi, by_name, failure, make_pool, uuid_of
from storage_motion.errors import DiskPaused, SmFault, TaskFailed, TimedOut
from storage_motion.sm import tracking

PID = 77


class World:
    """A VDI in pool A; `answers`: what the tasks end with, (status, error)."""

    def __init__(self, monkeypatch):
        self.pool = make_pool("A", ["a1"])
        self.ref = add_vdi(self.pool, by_name(self.pool, "SR", "a1-sr"))
        self.vdi = self.pool.tables["VDI"][self.ref]
        self.log, self.answers, self.served = [], [], PID
        for name, value in (("enable_cbt", True), ("disable_cbt", False)):
            self.pool.handlers["Async.VDI." + name] = self._asked(name, value)
        self.pool.handlers["task.get_status"] = lambda task: self._end()[0]
        self.pool.handlers["task.get_error_info"] = lambda task: self._end()[1]
        self.pool.handlers["task.get_result"] = lambda task: ""
        self.pool.handlers["task.cancel"] = lambda task: self.log.append("cancel")
        monkeypatch.setattr(tracking.repeated_commands, "ask", self._command)
        monkeypatch.setattr(tracking.active, "tapdisk_of", lambda sr, vdi: self.served)
        monkeypatch.setattr(tracking.active, "is_served", lambda sr, vdi: self.served is not None)
        monkeypatch.setattr(tracking.tapctl, "poked", self._poked)

    uuid = property(lambda self: self.vdi["uuid"])

    def _asked(self, name, value):
        def ask(vdi):
            assert vdi == self.ref
            self.log.append(name)
            if self._end()[0] == "success":
                self.vdi["cbt_enabled"] = value
            return "OpaqueRef:task"

        return ask

    def _end(self):
        return self.answers[0] if self.answers else ("success", [])

    def _command(self, session, sr, command, vdi):
        assert (sr, vdi) == (uuid_of(self.pool, "SR", self.vdi["SR"]), self.uuid)
        self.log.append(command)
        self.answers = self.answers[1:]

    @contextlib.contextmanager
    def _poked(self, pid):
        assert pid == PID
        self.log.append("poked")
        yield
        self.log.append("not poked")

    def is_open(self):
        self.vdi["sm_config"] = {"host_x": "RW"}


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


ENABLED = ["poked", "enable_cbt", "not poked", "vdi_go_on"]
DISABLED = ["poked", "disable_cbt", "not poked", "vdi_go_on"]


def test_the_tapdisk_is_poked_meanwhile_and_the_guest_goes_on(world):
    world.is_open()
    assert tracking.begin(world.pool, world.uuid) is None and world.vdi["cbt_enabled"]
    assert world.log == ENABLED
    tracking.end(world.pool, world.uuid)
    assert world.log == ENABLED + DISABLED and not world.vdi["cbt_enabled"]


def test_one_that_is_active_nowhere_needs_no_poking(world):
    world.served = None
    assert tracking.begin(world.pool, world.uuid) is None
    assert world.log == ["enable_cbt", "vdi_go_on"]


def test_one_of_which_sm_does_not_know_that_it_is_open_is_not_tracked(world):
    assert "does not know" in tracking.begin(world.pool, world.uuid)
    assert world.log == [] and not world.vdi["cbt_enabled"]


def test_what_sm_had_left_paused_is_tried_once_more(world):
    world.is_open()
    world.answers = [("failure", ["SR_BACKEND_FAILURE_202", "MAP_DUPLICATE_KEY"])]
    tracking.end(world.pool, world.uuid)
    assert world.log.count("disable_cbt") == world.log.count("vdi_go_on") == 2
    world.answers = 2 * [("failure", ["SR_BACKEND_FAILURE_457", "no room"])]
    assert tracking.begin(world.pool, world.uuid) == "SR_BACKEND_FAILURE_457 no room"


@pytest.mark.parametrize(
    "details", [["LICENCE_RESTRICTION", "CBT"], ["SR_OPERATION_NOT_SUPPORTED", "r"]]
)
def test_what_xapi_refuses_is_asked_once_and_told(world, details):
    world.is_open()
    world.answers = 3 * [("failure", details)]
    assert tracking.begin(world.pool, world.uuid) == " ".join(details)
    assert world.log.count("enable_cbt") == world.log.count("vdi_go_on") == 1
    with pytest.raises(TaskFailed):
        tracking.end(world.pool, world.uuid)
    assert tracking.renew(world.pool, world.uuid) == " ".join(details)


def test_a_wait_for_others_has_an_end(world, monkeypatch):
    monkeypatch.setattr(tracking, "TIMEOUT", 0.0)
    monkeypatch.setattr(tracking.tasks.time, "sleep", lambda seconds: None)
    world.is_open()
    world.answers = [("pending", [])]
    with pytest.raises(TimedOut):
        tracking.end(world.pool, world.uuid)
    assert world.log == ["poked", "disable_cbt", "cancel", "vdi_go_on"]


def test_a_guest_that_does_not_go_on_is_told(world, monkeypatch):
    world.is_open()

    def fail(*_):
        raise SmFault("vdi_go_on", 484, str(DiskPaused(world.uuid, "for 60 s")))

    monkeypatch.setattr(tracking.repeated_commands, "ask", fail)
    assert "SXM_DISK_PAUSED" in tracking.begin(world.pool, world.uuid)


def test_a_disk_that_is_gone_is_told(world):
    del world.pool.tables["VDI"][world.ref]
    assert tracking.begin(world.pool, world.uuid).startswith("UUID_INVALID VDI")


def test_a_xapi_that_has_forgotten_the_task_is_asked_again(world):
    world.is_open()
    lost = [failure("HANDLE_INVALID", "task", "t")]

    def status(task):
        if lost:
            raise lost.pop()
        return "success"

    world.pool.handlers["task.get_status"] = status
    tracking.end(world.pool, world.uuid)
    assert world.log.count("disable_cbt") == 2


@pytest.mark.parametrize("details", [["CANNOT_CONTACT_HOST", "r"], ["HOST_OFFLINE", "r"]])
def test_a_xapi_that_is_away_has_refused_nothing(world, details):
    world.is_open()
    world.pool.handlers["VDI.get_sm_config"] = lambda vdi: (_ for _ in ()).throw(failure(*details))
    for ask in (tracking.begin, tracking.renew):
        world.pool.handlers["Async.VDI.disable_cbt"] = lambda vdi: (_ for _ in ()).throw(
            failure(*details)
        )
        with pytest.raises(XenAPI.Failure):
            ask(world.pool, world.uuid)
