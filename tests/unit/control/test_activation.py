"""`activating` of a host that lost its power: taken off where it is sure that nobody is at it, and nowhere else."""
import subprocess
import sys

import pytest

from fake_pool import add_vdi, by_name, make_pool, uuid_of
from storage_motion.control import activation
from storage_motion.dom0 import inventory, smapi
from storage_motion.xapi import xenops

VM = "99999999-8888-7777-6666-555555555555"


@pytest.fixture
def pool(monkeypatch):
    pool = make_pool("B", ["b1", "b2"])
    monkeypatch.setattr(inventory, "host_uuid", lambda: uuid_of(pool, "host", by_name(pool, "host", "b1")))
    return pool


def disk(pool, sr="b1-sr", **sm_config):
    ref = add_vdi(pool, by_name(pool, "SR", sr), sm_config=dict(sm_config))
    return pool.tables["VDI"][ref]


def test_a_dead_one_is_ended(pool):
    vdi = disk(pool, activating="True", other="kept")
    assert activation.end_dead(pool, vdi["uuid"]) is True
    assert vdi["sm_config"] == {"other": "kept"}
    assert activation.end_dead(pool, vdi["uuid"]) is False


def test_one_that_a_process_is_at_is_not(pool):
    vdi = disk(pool, activating="True")
    with subprocess.Popen([sys.executable, "-c", "input()", "<?xml ...%s..." % vdi["uuid"]], stdin=subprocess.PIPE) as process:
        assert activation.end_dead(pool, vdi["uuid"]) is False and "activating" in vdi["sm_config"]
        process.communicate(b"\n", timeout=20)
    assert activation.end_dead(pool, vdi["uuid"]) is True


def test_one_that_another_host_may_be_at_is_not(pool):
    elsewhere = disk(pool, "b2-sr", activating="True")
    assert activation.end_dead(pool, elsewhere["uuid"]) is False
    shared = disk(pool, activating="True")
    pool.tables["SR"][shared["SR"]]["PBDs"] = pool.tables["SR"][shared["SR"]]["PBDs"] + pool.tables["SR"][elsewhere["SR"]]["PBDs"]
    assert activation.end_dead(pool, shared["uuid"]) is False
    assert "activating" in elsewhere["sm_config"] and "activating" in shared["sm_config"]


@pytest.mark.parametrize("uuid", [None, "", "11111111-2222-3333-4444-555555555555"])
def test_no_disk(pool, uuid):
    assert activation.end_dead(pool, uuid) is False


class Here:
    """A host whose xenopsd knows VMs ({uuid: power state}), and whose SM deactivates what it is told to."""

    def __init__(self, pool, monkeypatch, **known):
        self.known, self.commands = known, []
        self.key = "host_" + by_name(pool, "host", "b1")
        monkeypatch.setattr(xenops.Xenops, "local", lambda session, label: self)
        monkeypatch.setattr(smapi, "call", self.sm)
        self._pool = pool

    def power_state(self, vm):
        return self.known.get(vm)

    def sm(self, session, sr, command, vdi_ref, timeout):
        self.commands.append(command)
        if command == "vdi_let_go":
            del self._pool.tables["VDI"][vdi_ref]["sm_config"][self.key]


@pytest.mark.parametrize("known", [{}, {VM: "Halted"}])
def test_what_a_vm_has_left_behind_is_deactivated(pool, monkeypatch, known):
    here = Here(pool, monkeypatch, **known)
    vdi = disk(pool, **{here.key: "RW", "other": "kept"})
    assert activation.let_go_dead(pool, vdi["uuid"], VM) is True
    assert vdi["sm_config"] == {"other": "kept"} and here.commands == ["vdi_let_go"]
    assert activation.let_go_dead(pool, vdi["uuid"], VM) is False and len(here.commands) == 1


@pytest.mark.parametrize("known", [{VM: "Running"}, {VM: "Suspended"}, {xenops.incoming(VM): "Paused"}])
def test_what_a_vm_has_is_not(pool, monkeypatch, known):
    here = Here(pool, monkeypatch, **known)
    vdi = disk(pool, **{here.key: "RW"})
    assert activation.let_go_dead(pool, vdi["uuid"], VM) is False and not here.commands


def test_nor_what_another_host_has_or_a_process_is_at(pool, monkeypatch):
    here = Here(pool, monkeypatch)
    elsewhere = disk(pool, **{"host_" + by_name(pool, "host", "b2"): "RW"})
    assert activation.let_go_dead(pool, elsewhere["uuid"], VM) is False
    busy = disk(pool, **{here.key: "RW"})
    with subprocess.Popen([sys.executable, "-c", "input()", "<?xml ...%s..." % busy["uuid"]], stdin=subprocess.PIPE) as process:
        assert activation.let_go_dead(pool, busy["uuid"], VM) is False
        process.communicate(b"\n", timeout=20)
    assert not here.commands
    assert activation.let_go_dead(pool, None, VM) is False
