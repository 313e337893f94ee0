# SPDX-License-Identifier: LGPL-2.1-only
"""The source asks the destination to receive: once, and again only where the answer is lost with a
xapi, with a bound."""

import json
import socket

import pytest
import XenAPI

from fake_migration import make_plan
from fake_pool import FakePool, add_vdi
from storage_motion.errors import NotDurable, Undecided
from storage_motion.migration import durable
from storage_motion.migration.phases import receive

ANSWER = json.dumps(
    {
        "address": "10.0.0.1",
        "port": 1,
        "fingerprint": "f",
        "token": "t",
        "disks": {"k": {"vdi": "d", "blank": True}},
    }
)
SHUT = {"paused": "storage-motion", "relinking": "storage-motion"}
RESET = ConnectionResetError(104, "reset")


class Source:
    """A migration whose destination answers by a script."""

    id, plan = "11111111-2222-3333-4444-555555555555", make_plan()

    def __init__(self, *script):
        self.script, self.asked, self.noted = list(script), [], {}
        self.destination = FakePool("B")
        self.destination.sync()

    def disk(self, key):
        return self.noted[key]

    def note(self, key=None, **fields):
        self.noted.setdefault(key, {}).update(fields)

    def pulse(self):
        self.asked.append("pulse")

    def plugin(self, function, **arguments):
        self.asked.append((function, arguments.get("again")))
        found = self.script.pop(0)
        if isinstance(found, Exception):
            raise found
        add_vdi(self.destination, "OpaqueRef:sr", sm_config=dict(SHUT), managed=False)
        for record in self.destination.tables["VDI"].values():
            record["uuid"] = "d"
        return found


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    monkeypatch.setattr(receive.repeated, "PAUSE", 0.001)
    monkeypatch.setattr(durable.database, "sync", FakePool.sync)


@pytest.mark.parametrize(
    "lost",
    [
        RESET,
        XenAPI.Failure(["HOST_OFFLINE", "OpaqueRef:h"]),
        XenAPI.Failure(["CANNOT_CONTACT_HOST", "10.0.0.2"]),
        XenAPI.Failure(["HANDLE_INVALID", "task", "OpaqueRef:t"]),
    ],
)
def test_a_lost_answer_is_asked_for_again(lost):
    source = Source(lost, ANSWER)
    receive.begin(source)
    assert (
        source.asked == [("receive", None), "pulse", ("receive", "true")]
        and source.noted["k"]["destination_vdi"] == "d"
    )


def test_it_is_told_which_disks_of_snapshots_are_kept(monkeypatch):
    """So it can tell that they are not, any more."""
    source, told = Source(), []
    one = make_plan().disks[0]
    source.plan = make_plan(history=[one._replace(key=key, snapshot="s") for key in "abc"])
    for key, state in (("a", "kept"), ("b", "kept"), ("c", "waiting")):
        source.note(key, state=state)

    def plugin(function, **arguments):
        told.append((function, arguments.get("kept")))
        raise XenAPI.Failure(["SXM_TAKEN_AWAY", source.id, "the new disk of VDI a"])

    source.plugin = plugin
    with pytest.raises(XenAPI.Failure, match="SXM_TAKEN_AWAY"):
        receive.add(source, source.plan.history[2:])
    assert told == [("receive-add", '["a", "b"]')]


def test_what_the_destination_has_opened_is_noted_and_why_there_is_no_clone_is_told():
    made = {"vdi": "d", "blank": True, "images": ["d", "e"], "holds": True, "no_base": "no room"}
    source = Source(json.dumps(dict(json.loads(ANSWER), disks={"k": made})))
    told = []
    source.warn = told.append
    receive.begin(source)
    assert source.noted["k"]["images"] == ["d", "e"] and source.noted["k"]["holds"] is True
    assert len(told) == 1 and told[0].endswith(", and all of it is sent: no room")


def test_there_is_a_bound():
    source = Source(RESET, RESET, RESET)
    with pytest.raises(ConnectionResetError):
        receive.begin(source)
    assert [one for one in source.asked if one != "pulse"] == [
        ("receive", None),
        ("receive", "true"),
        ("receive", "true"),
    ]


@pytest.mark.parametrize(
    "error",
    [XenAPI.Failure(["SXM_DESTINATION_FULL", "k"]), socket.timeout("slow"), ValueError("no xapi")],
)
def test_what_was_refused_or_is_slow_is_not_asked_again(error):
    source = Source(error)
    with pytest.raises(type(error)):
        receive.begin(source)
    assert source.asked == [("receive", None)]


def test_a_xapi_that_has_forgotten_the_disks_is_asked_again(monkeypatch):
    """It was killed between its answer and the sync: nothing has been copied yet."""
    crashes = [FakePool.goes_back]
    monkeypatch.setattr(
        durable.database,
        "sync",
        lambda pool: (crashes.pop()(pool) if crashes else None, pool.sync()),
    )
    source = Source(ANSWER, ANSWER)
    receive.begin(source)
    assert source.asked == [("receive", None), ("receive", "true")]
    source.destination.goes_back()
    assert [vdi["uuid"] for vdi in source.destination.tables["VDI"].values()] == ["d"]


@pytest.mark.parametrize("came_back", [{"sm_config": {}}, {"managed": True}])
def test_so_is_one_that_lets_others_to_them(monkeypatch, came_back):
    changes = [came_back]

    def sync(pool):
        for record in pool.tables["VDI"].values():
            record.update(changes[0] if changes else {"sm_config": SHUT, "managed": False})
        del changes[:]

    monkeypatch.setattr(durable.database, "sync", sync)
    source = Source(ANSWER, ANSWER)
    receive.begin(source)
    assert source.asked == [("receive", None), ("receive", "true")]


def test_one_that_forgets_them_again_and_again_is_not_trusted(monkeypatch):
    monkeypatch.setattr(durable.database, "sync", FakePool.goes_back)
    source = Source(ANSWER, ANSWER, ANSWER)
    with pytest.raises(NotDurable):
        receive.begin(source)


def test_it_is_told_which_disks_are_the_vms():
    source, told = Source(), []
    one = make_plan().disks[0]
    source.plan = make_plan(
        history=[one._replace(key="s", snapshot="x")], staying=["t"], dropped=["d"]
    )
    source.note("s", state="waiting")

    def plugin(function, **arguments):
        told.append(json.loads(arguments["sources"]))
        raise XenAPI.Failure(["SR_FULL"])

    source.plugin = plugin
    with pytest.raises(XenAPI.Failure, match="SR_FULL"):
        receive.begin(source)
    assert told == [["s", "k", "t", "d"]]


def test_where_the_vm_has_a_new_disk_still_nothing_further_is_undone():
    source = Source(XenAPI.Failure(["SXM_DISK_OF_VM", "d", "VM v, which has it"]))
    source.lost, source.entry = False, {"receiving": True, "disks": {}}
    source.describe = lambda failure: failure.details
    with pytest.raises(Undecided, match="has its old disks: SXM_DISK_OF_VM d"):
        receive.abort(source)
    assert source.noted == {}, "it is asked to once more"
