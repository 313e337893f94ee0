# SPDX-License-Identifier: LGPL-2.1-only
"""What the master of a disk's SR is asked for: here, or by the plugin there; and what the plugin
refuses."""

import json

import pytest

from fake_pool import add_sr, add_vdi, make_pool, uuid_of
from storage_motion.api import functions
from storage_motion.errors import BadArguments
from storage_motion.sm import smapi, sr_master

LOST = {"nameless": ["11111111-0000-0000-0000-000000000000"], "unfinished": []}
VDI = "11111111-2222-3333-4444-555555555555"


@pytest.mark.parametrize(
    "shared, here, by_plugin",
    [(False, "a1", False), (False, "a2", False), (True, "a1", False), (True, "a2", True)],
)
def test_it_is_asked_where_the_storage_manager_works(monkeypatch, shared, here, by_plugin):
    pool, asked = make_pool("A", ["a1", "a2"]), []
    sr = add_sr(pool, "sr", [])
    pool.tables["SR"][sr]["shared"] = shared
    hosts = {record["name_label"]: record["uuid"] for record in pool.tables["host"].values()}
    monkeypatch.setattr(sr_master.inventory, "host_uuid", lambda: hosts[here])
    monkeypatch.setattr(
        sr_master.repeated_commands,
        "ask",
        lambda *arguments: (asked.append(arguments[1:]), json.dumps(LOST))[1],
    )
    pool.handlers["host.call_plugin"] = lambda *arguments: (
        asked.append(arguments),
        json.dumps({"snapshots": LOST}),
    )[1]
    uuid = uuid_of(pool, "SR", sr)
    assert sr_master.lost_snapshots(pool, uuid, VDI, 1000.25) == LOST
    (master,) = [record["master"] for record in pool.tables["pool"].values()]
    assert asked == (
        [(master, "sxm.py", "lost-snapshots", {"vdi": VDI, "since": "1000.25"})]
        if by_plugin
        else [(uuid, "vdi_lost_snapshots", VDI, ("1000.25",))]
    )


@pytest.mark.parametrize(
    "function, given",
    [
        ("lost-snapshots", {"vdi": "../etc", "since": "1"}),
        ("lost-snapshots", {"vdi": VDI, "since": "yesterday"}),
        ("end-pause", {"vdi": "x" * 1000, "host-key": "host_x"}),
        ("relinking", {"vdi": "x"}),
        ("end-relinking", {"vdi": "x"}),
    ],
)
def test_the_plugin_takes_nothing_else(function, given):
    with pytest.raises(BadArguments):
        functions.call(function, None, given)


def test_the_plugin_has_the_driver_look(monkeypatch):
    pool = make_pool("A", ["a1"])
    sr = add_sr(pool, "sr", [])
    vdi = add_vdi(pool, sr, uuid=VDI)
    answers, asked = {"vdi_lost_snapshots": json.dumps(LOST), "vdi_end_pause": "true"}, []

    def call(session, sr_ref, command, vdi_ref, args, timeout):
        asked.append((sr_ref, vdi_ref, args))
        return answers[command]

    monkeypatch.setattr(smapi, "call", call)
    assert functions.call("lost-snapshots", pool, {"vdi": VDI, "since": "1.5"})["snapshots"] == LOST
    assert functions.call("end-pause", pool, {"vdi": VDI, "host-key": "host_a2"})["nobody"] is True
    assert asked == [(sr, vdi, ("1.5",)), (sr, vdi, ("host_a2",))]
    answers["vdi_relinking"] = "left"
    assert functions.call("relinking", pool, {"vdi": VDI})["state"] == "left"
    assert asked[2:] == [(sr, vdi, ())]


@pytest.mark.parametrize("here, asked_of", [("a1", "driver"), ("a2", "plugin")])
def test_whether_sm_relinks_is_asked_likewise(monkeypatch, here, asked_of):
    pool = make_pool("A", ["a1", "a2"], shared=True)
    hosts = {record["name_label"]: record["uuid"] for record in pool.tables["host"].values()}
    monkeypatch.setattr(sr_master.inventory, "host_uuid", lambda: hosts[here])
    here_is_right = asked_of == "driver"
    monkeypatch.setattr(
        sr_master.repeated_commands, "ask", lambda *given: "left" if here_is_right else 1 / 0
    )
    pool.handlers["host.call_plugin"] = lambda *arguments: json.dumps(
        {"state": "left"} if arguments[1:] == ("sxm.py", "relinking", {"vdi": VDI}) else {}
    )
    (sr,) = [record["uuid"] for record in pool.tables["SR"].values() if record["shared"]]
    assert sr_master.relinking(pool, sr, VDI) == "left"
