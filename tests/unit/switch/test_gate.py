# SPDX-License-Identifier: LGPL-2.1-only
"""The keys in sm_config that keep SM from a disk: written, looked at, and taken away."""

import pytest

from fake_pool import FakePool, add_vdi
from storage_motion.errors import GateOpen
from storage_motion.sm import marks
from storage_motion.switch import gate

MARK = "sxm m"
HOST = "host_OpaqueRef:1"


def test_shutting_waits_for_the_disk_to_be_let_go(monkeypatch):
    monkeypatch.setattr(gate, "SETTLE_TIMEOUT", 0.3)
    pool = FakePool("B")
    vdi = add_vdi(pool, "OpaqueRef:sr", sm_config={HOST: "RW"})
    with pytest.raises(GateOpen):
        gate.shut(pool, vdi, "uuid")
    assert pool.tables["VDI"][vdi]["sm_config"] == {HOST: "RW"}, (
        "who has it active could not let go of it"
    )
    assert ("add_to_sm_config", "VDI", "paused", marks.SHUT) in pool.calls, (
        "nobody new got in meanwhile"
    )
    pool.tables["VDI"][vdi]["sm_config"].pop(HOST)
    for _ in range(2):
        gate.shut(pool, vdi, "uuid")
    assert pool.tables["VDI"][vdi]["sm_config"] == dict.fromkeys(
        (marks.PAUSED, marks.RELINKING), marks.SHUT
    )
    pool.tables["VDI"][vdi]["sm_config"][HOST] = "RW"
    with pytest.raises(GateOpen):
        gate.shut(pool, vdi, "uuid")
    assert gate.is_shut(pool.tables["VDI"][vdi]["sm_config"]), "what was shut stays shut"


@pytest.mark.parametrize("config", [{"paused": "true"}, {"relinking": "True"}])
def test_what_sm_is_at_is_not_shut_and_stays_as_it_is(monkeypatch, config):
    pool = FakePool("B")
    vdi = add_vdi(pool, "OpaqueRef:sr", sm_config=dict(config))
    with pytest.raises(GateOpen):
        gate.shut(pool, vdi, "uuid")
    assert pool.tables["VDI"][vdi]["sm_config"] == config


@pytest.mark.parametrize(
    "config, mended",
    [({"relinking": marks.SHUT}, True), ({"paused": marks.SHUT}, False), ({}, False)],
)
def test_only_a_gate_that_has_relinking_is_made_whole(config, mended):
    pool = FakePool("B")
    vdi = add_vdi(pool, "OpaqueRef:sr", sm_config=dict(config))
    gate.mend(pool, vdi)
    assert pool.tables["VDI"][vdi]["sm_config"] == (
        {"paused": marks.SHUT, "relinking": marks.SHUT} if mended else config
    )


def test_only_our_mark_comes_off():
    pool = FakePool("A")
    vdi = add_vdi(pool, "OpaqueRef:sr", sm_config={"paused": "true"})
    gate.remove(pool, vdi, MARK)
    assert pool.calls == []
    pool.tables["VDI"][vdi]["sm_config"] = {"paused": MARK}
    gate.remove(pool, vdi, MARK)
    gate.remove(pool, vdi, MARK)
    assert pool.calls == [("remove_from_sm_config", "VDI", "paused")]
