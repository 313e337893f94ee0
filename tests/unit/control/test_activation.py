"""`activating` of a host that lost its power: taken off where it is sure that nobody is at it, and nowhere else."""
import subprocess
import sys

import pytest

from fake_pool import add_vdi, by_name, make_pool, uuid_of
from storage_motion.control import activation
from storage_motion.dom0 import inventory


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
