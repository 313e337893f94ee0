# SPDX-License-Identifier: LGPL-2.1-only
"""Writing a field of xapi's database: only what is suspended, only when it has to be, and never
taken for written without being seen. (Against a xapi: tests/lab/test_xapi_remote_database.py.)"""

import json

import pytest

from fake_migration import ID
from fake_pool import add_vdi, add_vm, by_name, make_pool, uuid_of
from storage_motion.errors import BadArguments, FieldNotWritten
from storage_motion.plan.checks import CLAIM
from storage_motion.xapi import database_fields, transport
from storage_motion.xapi.database_fields import DISK, MEMORY, Turn

TURN = Turn(ID, 2)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))


class Asleep:
    """A suspended VM with a disk; `new` is another one. `asked`: what the master was asked for."""

    def __init__(self):
        self.pool = pool = make_pool("A", ["a1", "a2"])
        sr = by_name(pool, "SR", "a1-sr")
        self.old, self.new = add_vdi(pool, sr), add_vdi(pool, sr)
        network = by_name(pool, "network", "guests")
        self.vm = add_vm(pool, "OpaqueRef:NULL", [self.old], network, power_state="Suspended")
        pool.tables["VM"][self.vm].update(other_config={CLAIM: ID}, is_a_snapshot=False)
        (self.vbd,) = pool.tables["VM"][self.vm]["VBDs"]
        self.asked = []
        pool.handlers["host.call_plugin"] = self._plugin

    def _plugin(self, host, plugin, function, arguments):
        assert (host, plugin) == (by_name(self.pool, "host", "a1"), "sxm.py"), "the master's"
        self.asked.append((function, arguments))
        return json.dumps({"written": True})


def test_the_master_is_asked_and_not_believed():
    asleep = Asleep()
    with pytest.raises(FieldNotWritten, match="it is what it was"):
        database_fields.write(asleep.pool, TURN, DISK, asleep.vbd, asleep.new)
    assert asleep.asked == [
        (
            "suspended-disk",
            {
                "class": "VBD",
                "uuid": uuid_of(asleep.pool, "VBD", asleep.vbd),
                "vdi": uuid_of(asleep.pool, "VDI", asleep.new),
                "migration": ID,
                "turn": "2",
            },
        )
    ]


def test_what_is_so_already_is_not_asked_for():
    asleep = Asleep()
    asleep.pool.tables["VM"][asleep.vm]["suspend_VDI"] = asleep.new
    database_fields.write(asleep.pool, TURN, DISK, asleep.vbd, asleep.old)
    database_fields.write(asleep.pool, TURN, MEMORY, asleep.vm, asleep.new)
    assert asleep.asked == []


class Answering:
    """A connection to a xapi that answers so."""

    def __init__(self, status, text):
        self.status, self._text = status, text

    def request(self, *arguments):
        pass

    def getresponse(self):
        return self

    def read(self, most):
        return self._text.encode()

    def close(self):
        pass


def array(*items):
    return "<value><array><data>%s</data></array></value>" % "".join(items)


SUCCESS = array("<value>success</value>", "<value/>")
FAILURE = array("<value>failure</value>", array("<value>dbcache_notfound</value>"))


@pytest.mark.parametrize("text", [SUCCESS, SUCCESS.replace("<value/>", "<value></value>")])
def test_it_is_written(monkeypatch, text):
    asleep = Asleep()
    monkeypatch.setattr(transport, "local_connection", lambda timeout: Answering(200, text))
    assert database_fields.write_here(asleep.pool, given(asleep)) == {"written": True}


@pytest.mark.parametrize(
    "status, text, why",
    [
        (200, FAILURE, "dbcache_notfound"),
        (200, "", "not a xapi"),
        (200, "<html>", "not a xapi"),
        (200, "<value>success</value>", "success"),
        (401, SUCCESS, "HTTP status 401"),
        (404, SUCCESS, "HTTP status 404"),
        (500, SUCCESS, "HTTP status 500"),
    ],
)
def test_another_answer_is_a_failure(monkeypatch, status, text, why):
    asleep = Asleep()
    monkeypatch.setattr(transport, "local_connection", lambda timeout: Answering(status, text))
    with pytest.raises(FieldNotWritten, match=why):
        database_fields.write_here(asleep.pool, given(asleep))


@pytest.mark.parametrize("state", ["Running", "Halted", "Paused"])
def test_what_is_not_suspended_is_left_alone(monkeypatch, state):
    asleep = Asleep()
    asleep.pool.tables["VM"][asleep.vm]["power_state"] = state
    monkeypatch.setattr(transport, "local_connection", None)
    with pytest.raises(FieldNotWritten, match="its VM is %s" % state):
        database_fields.write_here(asleep.pool, given(asleep))


def given(asleep):
    return {
        "class": "VBD",
        "uuid": uuid_of(asleep.pool, "VBD", asleep.vbd),
        "vdi": uuid_of(asleep.pool, "VDI", asleep.new),
        "migration": ID,
        "turn": "2",
    }


@pytest.fixture
def written(monkeypatch):
    """What has been posted."""
    found = []
    monkeypatch.setattr(
        database_fields, "_post", lambda *posted: found.append(posted) or ["success", ""]
    )
    return found


@pytest.mark.parametrize("config", [{}, {CLAIM: "another"}])
@pytest.mark.parametrize("snapshot", [False, True])
def test_what_the_migration_has_not_claimed_is_left_alone(written, config, snapshot):
    asleep = Asleep()
    record = asleep.pool.tables["VM"][asleep.vm]
    if snapshot:
        of = asleep.pool.add("VM", uuid="of", other_config={CLAIM: ID})
        record.update(is_a_snapshot=True, snapshot_of=of, other_config={})
        database_fields.write_here(asleep.pool, given(asleep))
        record = asleep.pool.tables["VM"][of]
    del written[:]
    record["other_config"] = config
    with pytest.raises(FieldNotWritten, match="not claimed by migration %s" % ID):
        database_fields.write_here(asleep.pool, given(asleep))
    assert written == []


def test_once_a_turn_has_begun_nothing_of_an_earlier_one_is_written(written):
    asleep = Asleep()
    other = "0" * 8 + ID[8:]
    for migration, turn in ((other, "9"), (ID, "2"), (ID, "2")):
        database_fields.begin_here(asleep.pool, {"migration": migration, "turn": turn})
        database_fields.write_here(asleep.pool, given(asleep))
    database_fields.begin_here(asleep.pool, {"migration": ID, "turn": "10"})
    with pytest.raises(FieldNotWritten, match="does not ask for it any more"):
        database_fields.write_here(asleep.pool, given(asleep))
    assert len(written) == 3
    database_fields.write_here(asleep.pool, dict(given(asleep), turn="11"))
    assert len(written) == 4


def test_a_turn_does_not_begin_while_something_is_written(monkeypatch, written):
    monkeypatch.setattr(database_fields, "ALONE_TIMEOUT", 0)
    asleep = Asleep()

    def begins(*posted):
        with pytest.raises(FieldNotWritten, match="another call"):
            database_fields.begin_here(asleep.pool, {"migration": ID, "turn": "3"})
        return ["success", ""]

    monkeypatch.setattr(database_fields, "_post", begins)
    database_fields.write_here(asleep.pool, given(asleep))
    database_fields.begin_here(asleep.pool, {"migration": ID, "turn": "3"})


def test_a_line_that_found_no_room(written, tmp_path):
    asleep = Asleep()
    database_fields.begin_here(asleep.pool, {"migration": ID, "turn": "1"})
    with open(str(tmp_path) + database_fields.TURNS, "a") as turns:
        turns.write("\n" + ID)
    database_fields.begin_here(asleep.pool, {"migration": ID, "turn": "3"})
    with pytest.raises(FieldNotWritten):
        database_fields.write_here(asleep.pool, given(asleep))


@pytest.mark.parametrize("wrong", [{"turn": "-1"}, {"turn": "x"}, {"migration": "../x"}])
def test_no_turn(wrong):
    with pytest.raises(BadArguments):
        database_fields.begin_here(None, dict({"migration": ID, "turn": "1"}, **wrong))
