# SPDX-License-Identifier: LGPL-2.1-only
"""HA leaves a VM alone while it is moved, and protects it as before at the end, on either side."""

import pytest
import XenAPI

from fake_pool import FakePool, add_vm, by_name, make_pool
from storage_motion.migration import durable, known_at_destination
from storage_motion.migration.phases import claim, cleanup, ha_protection, move, release
from test_claim import FakeMigration

REFUSED = ["HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"]


class Protected(FakeMigration):
    """A migration of a VM that HA restarts, from pool A to pool B, where it is already."""

    receiving_host = None

    def __init__(self, priority="restart"):
        super().__init__()
        self.warnings, self.noted = [], []
        self.record.update(ha_restart_priority=priority, ha_always_run=priority == "restart")
        self.destination = make_pool("B", ["b1"])
        for pool in (self.source, self.destination):
            next(iter(pool.tables["pool"].values()))["ha_enabled"] = True
            pool.handlers["VM.set_ha_restart_priority"] = self._setter(pool)
        self.there_ref = add_vm(
            self.destination,
            by_name(self.destination, "host", "b1"),
            [],
            by_name(self.destination, "network", "guests"),
            uuid=self.record["uuid"],
        )
        self.refusal = None

    there = property(lambda self: self.destination.tables["VM"][self.there_ref])

    def _setter(self, pool):
        """As xapi's own (xapi_vm.ml)."""

        def setter(vm, value):
            if value and self.refusal:
                raise XenAPI.Failure(self.refusal)
            pool.calls.append(("set_ha_restart_priority", "VM", value))
            record = pool.tables["VM"][vm]
            if record["ha_restart_priority"] != value and record["power_state"] == "Running":
                record["ha_always_run"] = value == "restart"
            record["ha_restart_priority"] = value

        return setter

    def note(self, **fields):
        self.noted.append((self.record["ha_restart_priority"], fields))
        super().note(**fields)

    def warn(self, text, **fields):
        self.warnings.append(text)
        self.note(**fields)

    def disk(self, key):
        return {"destination_vdi": "d"}

    def give_back_there(self):
        ha_protection.give_back(self, self.destination, self.there_ref)


@pytest.fixture
def m():
    return Protected()


@pytest.fixture
def synced(monkeypatch):
    monkeypatch.setattr(durable.database, "sync", FakePool.sync)


@pytest.mark.parametrize("priority", ["restart", "best-effort"])
def test_the_claim_takes_it_off_once_the_journal_has_it(priority):
    m = Protected(priority)
    for _ in range(2):
        claim.claim(m)
    assert (m.record["ha_restart_priority"], m.record["ha_always_run"]) == ("", False)
    assert (priority, {"ha_restart_priority": priority}) in m.noted
    claim.release(m)
    claim.release(m)
    assert m.record["ha_restart_priority"] == priority and m.warnings == []
    assert m.record["ha_always_run"] == (priority == "restart")


def test_it_is_taken_off_before_anything_is_blocked(m):
    """HA would tell of a VM that it cannot start, and that somebody has blocked."""
    claim.claim(m)
    done = [call[0] for call in m.source.calls]
    assert done.index("set_ha_restart_priority") < done.index("add_to_blocked_operations")
    claim.release(m)
    done = [call[0] for call in m.source.calls]
    last = len(done) - 1 - done[::-1].index("set_ha_restart_priority")
    assert last > len(done) - 1 - done[::-1].index("remove_from_blocked_operations")


def test_of_a_vm_that_nobody_protects_nothing_is_noted_and_nothing_set():
    m = Protected("")
    claim.claim(m)
    claim.release(m)
    m.give_back_there()
    assert "ha_restart_priority" not in m.entry
    assert not [call for call in m.source.calls if call[0] == "set_ha_restart_priority"]


@pytest.mark.parametrize("calls", range(1, 36))
def test_a_claim_that_is_killed_at_any_call_is_undone(m, calls):
    before = dict(m.record)
    real, left = m.source.call, [calls]

    def failing(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise OSError("killed")
        return real(*arguments)

    m.source.call = failing
    try:
        claim.claim(m)
    except OSError:
        pass
    m.source.call = real
    claim.release(m)
    assert dict(m.record) == before and m.warnings == []


def test_a_protection_that_an_older_database_brings_back_is_taken_off_again(m):
    m.source.sync()
    claim.claim(m)
    m.entry["begun"] = ["claim"]
    m.source.goes_back()
    assert ha_protection.found_again(m) == ["that HA (restart) leaves the VM alone"]
    for _ in range(2):
        claim.put_back(m)
    assert m.record["ha_restart_priority"] == "" and ha_protection.found_again(m) == []
    assert m.entry["ha_restart_priority"] == "restart"


def test_the_move_begins_with_it_off(m, monkeypatch):
    monkeypatch.setattr(move.source_lock, "is_begun", lambda m, disk: True)
    monkeypatch.setattr(move.whereabouts, "vdi_there", lambda m, disk: None)
    monkeypatch.setattr(move.remap, "lacking", lambda m: [])
    claim.claim(m)
    without = move._unprotected(m)
    m.record["ha_restart_priority"] = "restart"
    assert move._unprotected(m) == without + ["that HA (restart) leaves the VM alone"]


def test_what_somebody_sets_meanwhile_at_the_source_is_what_it_gets(m):
    claim.claim(m)
    m.record["ha_restart_priority"] = "best-effort"
    ha_protection.take_off(m)
    m.give_back_there()
    assert m.there["ha_restart_priority"] == "best-effort"


def test_what_somebody_has_set_at_the_end_stays(m):
    claim.claim(m)
    m.record["ha_restart_priority"] = m.there["ha_restart_priority"] = "best-effort"
    claim.release(m)
    m.give_back_there()
    assert m.record["ha_restart_priority"] == m.there["ha_restart_priority"] == "best-effort"
    assert m.warnings == []


@pytest.mark.parametrize(
    "refusal", [REFUSED, ["HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", "OpaqueRef:sr"]]
)
def test_where_xapi_refuses_it_the_user_is_told_and_nothing_fails(m, refusal):
    claim.claim(m)
    m.refusal = refusal
    for _ in range(2):
        m.give_back_there()
    (warning,) = m.warnings
    assert refusal[0] in warning and "its restart priority was restart" in warning
    assert warning.endswith(
        "xe vm-param-set uuid=%s ha-restart-priority=restart" % m.record["uuid"]
    )
    assert ha_protection.lacking(m, m.destination, m.there_ref) == []


@pytest.mark.parametrize("refusal", [["HOST_OFFLINE", "h"], ["HANDLE_INVALID", "VM", "x"]])
def test_a_xapi_that_is_away_has_not_refused_it(m, refusal):
    claim.claim(m)
    m.refusal = refusal
    with pytest.raises(XenAPI.Failure):
        m.give_back_there()
    m.refusal = None
    m.give_back_there()
    assert m.there["ha_restart_priority"] == "restart" and m.warnings == []


@pytest.mark.parametrize(
    "priority, changes, enabled, told",
    [
        ("restart", {"power_state": "Halted"}, True, True),
        ("restart", {"power_state": "Halted"}, False, False),
        ("restart", {"power_state": "Halted", "ha_always_run": True}, True, False),
        ("restart", {}, True, False),
        ("best-effort", {"power_state": "Halted"}, True, False),
    ],
)
def test_of_a_vm_that_has_halted_meanwhile_is_told_that_ha_does_not_start_it(
    priority, changes, enabled, told
):
    m = Protected(priority)
    claim.claim(m)
    m.there.update(changes)
    next(iter(m.destination.tables["pool"].values()))["ha_enabled"] = enabled
    m.give_back_there()
    assert [warning.endswith("vm-start uuid=" + m.plan.vm) for warning in m.warnings] == [
        True
    ] * told
    assert m.there["ha_restart_priority"] == priority


def test_of_a_vm_that_was_moved_halted_it_is_not():
    m = Protected()
    m.plan = m.plan._replace(live=False)
    m.record["power_state"] = m.there["power_state"] = "Halted"
    m.vbd["currently_attached"] = False
    claim.claim(m)
    assert m.record["ha_always_run"], "as it was: xapi changes that of a running VM only"
    m.give_back_there()
    assert m.there["ha_restart_priority"] == "restart" and m.warnings == []


def test_at_the_end_it_is_on_disk_at_the_destination(m, monkeypatch, synced):
    monkeypatch.setattr(cleanup.whereabouts, "open_again", lambda m: None)
    monkeypatch.setattr(cleanup.pool_lock, "lift", lambda m: None)
    monkeypatch.setattr(known_at_destination.whereabouts, "vdi_there", lambda m, disk: None)
    m.plugin = lambda function: None
    claim.claim(m)
    claim.block_arrived(m, m.there_ref)
    crashes = [m.destination.goes_back]
    m.destination.sync()

    def sync(session):
        if crashes:
            crashes.pop()()
        session.sync()

    monkeypatch.setattr(durable.database, "sync", sync)
    cleanup.end(m)
    m.destination.goes_back()
    assert m.there["ha_restart_priority"] == "restart" and m.there["blocked_operations"] == {}


def test_taken_back_it_is_on_disk_at_the_source(m, monkeypatch, synced):
    monkeypatch.setattr(release.source_lock, "lift", lambda m, disk: None)
    monkeypatch.setattr(release.source_lock, "is_begun", lambda m, disk: False)
    claim.claim(m)
    m.source.sync()
    crashes = [m.source.goes_back]
    monkeypatch.setattr(
        durable.database,
        "sync",
        lambda session: (crashes.pop()() if crashes else None, session.sync()),
    )
    release.release(m)
    m.source.goes_back()
    assert m.record["ha_restart_priority"] == "restart" and m.record["other_config"] == {}


def test_it_is_set_before_the_mark_goes(m):
    """Whoever claims the VM next has to find it as it was."""
    claim.claim(m)
    seen = []
    m.source.handlers["VM.remove_from_other_config"] = lambda ref, key: seen.append(
        m.record["ha_restart_priority"]
    )
    claim.release(m)
    assert seen == ["restart"]
