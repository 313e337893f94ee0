# SPDX-License-Identifier: LGPL-2.1-only
"""The Task that shows a migration: a cancel by the pool is seen, one that xapi has lost is made
anew, an outage hinders nothing."""

import pytest
import XenAPI

from storage_motion.xapi import tasks

SHOWN = tasks.Shown(
    "VM.migrate_send", "Storage XenMotion of web to b1", "OpaqueRef:vm", {"sxm_migration": "id"}
)


class Pool:
    """The tasks of a xapi. `away`: it does not answer."""

    def __init__(self):
        self.records = {}
        self.away = False
        self.calls = []
        self.made = 0

    @property
    def xenapi(self):
        return self

    at_once = task = xenapi

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append(name)
            if self.away:
                raise ConnectionRefusedError(111, "refused")
            if name == "create":
                self.made += 1
                self.records["r%d" % self.made] = {"label": arguments[0], "other": {}, "ops": {}}
                return "r%d" % self.made
            record = self.records.get(arguments[0])
            if record is None:
                raise XenAPI.Failure(["HANDLE_INVALID", "task", arguments[0]])
            if name == "add_to_other_config":
                record["other"][arguments[1]] = arguments[2]
            elif name == "get_current_operations":
                return record["ops"]
            elif name == "get_uuid":
                return "uuid of " + arguments[0]
            else:
                record[name] = arguments[1]
            return None

        return call


@pytest.fixture
def pool():
    return Pool()


def test_it_says_what_it_is_of(pool):
    task = tasks.ProgressTask(pool, SHOWN)
    assert pool.records[task.ref]["label"] == "VM.migrate_send"
    assert pool.records[task.ref]["other"] == {"sxm_migration": "id", "applies_to": "OpaqueRef:vm"}


def test_a_cancel_is_looked_for_once_in_an_interval(pool, monkeypatch):
    monkeypatch.setattr(tasks, "CANCEL_INTERVAL", 1000.0)
    task = tasks.ProgressTask(pool, SHOWN)
    assert not any(task.cancel_asked() for _ in range(100))
    assert pool.calls.count("get_current_operations") == 1
    pool.records[task.ref]["ops"] = {"DummyRef:|x|task.cancel": "cancel"}
    monkeypatch.setattr(tasks, "CANCEL_INTERVAL", 0.0)
    assert task.cancel_asked()


def test_a_mark_of_destroy_is_no_cancel(pool):
    task = tasks.ProgressTask(pool, SHOWN)
    pool.records[task.ref]["ops"] = {"task": "destroy"}
    assert not task.cancel_asked()


@pytest.mark.parametrize(
    "what",
    [
        lambda task: task.progress(0.5),
        lambda task: task.cancel_asked(),
        lambda task: task.finish("success"),
    ],
)
def test_one_that_xapi_has_lost_is_made_anew(pool, what):
    task, noted = tasks.ProgressTask(pool, SHOWN), []
    task.noted = noted.append
    pool.records.clear()  # xapi was restarted
    what(task)
    assert noted == ["uuid of r2"] and list(pool.records) == ["r2"]
    assert pool.records["r2"]["other"]["applies_to"] == "OpaqueRef:vm"


@pytest.mark.parametrize(
    "what",
    [
        lambda task: task.progress(0.5),
        lambda task: task.cancel_asked(),
        lambda task: task.finish("success"),
    ],
)
def test_an_outage_hinders_nothing(pool, what):
    task = tasks.ProgressTask(pool, SHOWN)
    pool.away = True
    assert not what(task)


@pytest.mark.parametrize(
    "status, error", [("success", ()), ("failure", ("CODE", "detail")), ("cancelled", ())]
)
def test_it_ends_with_a_status(pool, status, error):
    task = tasks.ProgressTask(pool, SHOWN)
    task.finish(status, error)
    assert pool.records[task.ref]["set_status"] == status and pool.calls[-1] == "set_status"
    assert pool.records[task.ref].get("set_error_info", []) == list(error)


def test_what_xapi_has_forgotten_is_begun_again(monkeypatch):
    monkeypatch.setattr(tasks, "POLL", 0.001)
    begun, statuses = iter(["forgotten", "kept"]), iter(["pending", "success"])

    class Restarted(Pool):
        def __getattr__(self, name):
            if name == "get_status":
                return lambda task: (
                    next(statuses) if task == "kept" else Pool.__getattr__(self, name)(task)
                )
            return {"get_result": lambda task: "result of " + task}[name]

    assert tasks.run(Restarted(), lambda: next(begun), 5) == "result of kept"


def test_what_fails_is_not_begun_again():
    class Failing(Pool):
        def __getattr__(self, name):
            return {
                "get_status": lambda task: "failure",
                "get_error_info": lambda task: ["HANDLE_INVALID", "VM", "v"],
            }[name]

    begun = iter(["r1"])
    with pytest.raises(tasks.TaskFailed) as raised:
        tasks.run(Failing(), lambda: next(begun), 5)
    assert raised.value.failure() == ["HANDLE_INVALID", "VM", "v"]
