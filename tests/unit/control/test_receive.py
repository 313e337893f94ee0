"""The source asks the destination to receive: once, and again only where the answer is lost with a xapi, with a bound."""
import json
import socket
import types

import pytest
import XenAPI

from storage_motion.control import receive
from test_migration import make_plan

ANSWER = json.dumps({"address": "10.0.0.1", "port": 1, "fingerprint": "f", "token": "t", "disks": {"k": {"vdi": "d", "blank": True}}})
RESET = ConnectionResetError(104, "reset")


class Source:
    """A migration whose destination answers by a script."""
    id, plan = "11111111-2222-3333-4444-555555555555", make_plan()
    destination = None

    def __init__(self, *script):
        self.script, self.asked, self.noted = list(script), [], {}

    def note(self, key=None, **fields):
        self.noted.setdefault(key, {}).update(fields)

    def pulse(self):
        self.asked.append("pulse")

    def plugin(self, function, **arguments):
        self.asked.append((function, arguments.get("again")))
        found = self.script.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    monkeypatch.setattr(receive, "PAUSE", 0.001)
    monkeypatch.setattr(receive, "durable", types.SimpleNamespace(sync=lambda session: None))


@pytest.mark.parametrize("lost", [RESET, XenAPI.Failure(["HOST_OFFLINE", "OpaqueRef:h"]), XenAPI.Failure(["CANNOT_CONTACT_HOST", "10.0.0.2"])])
def test_a_lost_answer_is_asked_for_again(lost):
    source = Source(lost, ANSWER)
    receive.begin(source)
    assert source.asked == [("receive", None), "pulse", ("receive", "true")] and source.noted["k"]["destination_vdi"] == "d"


def test_there_is_a_bound():
    source = Source(RESET, RESET, RESET)
    with pytest.raises(ConnectionResetError):
        receive.begin(source)
    assert [one for one in source.asked if one != "pulse"] == [("receive", None), ("receive", "true"), ("receive", "true")]


@pytest.mark.parametrize("error", [XenAPI.Failure(["SXM_DESTINATION_FULL", "k"]), socket.timeout("slow"), ValueError("no xapi")])
def test_what_was_refused_or_is_slow_is_not_asked_again(error):
    source = Source(error)
    with pytest.raises(type(error)):
        receive.begin(source)
    assert source.asked == [("receive", None)]
