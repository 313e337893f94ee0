# SPDX-License-Identifier: LGPL-2.1-only
"""Writing a field of xapi's database: only what is suspended, only when it has to be, and never
taken for written without being seen. (Against a xapi: tests/lab/test_xapi_remote_database.py.)"""

import json

import pytest

from fake_pool import add_vdi, add_vm, by_name, make_pool, uuid_of
from storage_motion.errors import FieldNotWritten
from storage_motion.xapi import database_fields, transport
from storage_motion.xapi.database_fields import DISK, MEMORY


class Asleep:
    """A suspended VM with a disk; `new` is another one. `asked`: what the master was asked for."""

    def __init__(self):
        self.pool = pool = make_pool("A", ["a1", "a2"])
        sr = by_name(pool, "SR", "a1-sr")
        self.old, self.new = add_vdi(pool, sr), add_vdi(pool, sr)
        network = by_name(pool, "network", "guests")
        self.vm = add_vm(pool, "OpaqueRef:NULL", [self.old], network, power_state="Suspended")
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
        database_fields.write(asleep.pool, DISK, asleep.vbd, asleep.new)
    assert asleep.asked == [
        (
            "suspended-disk",
            {
                "class": "VBD",
                "uuid": uuid_of(asleep.pool, "VBD", asleep.vbd),
                "vdi": uuid_of(asleep.pool, "VDI", asleep.new),
            },
        )
    ]


def test_what_is_so_already_is_not_asked_for():
    asleep = Asleep()
    asleep.pool.tables["VM"][asleep.vm]["suspend_VDI"] = asleep.new
    database_fields.write(asleep.pool, DISK, asleep.vbd, asleep.old)
    database_fields.write(asleep.pool, MEMORY, asleep.vm, asleep.new)
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
    }
