# SPDX-License-Identifier: LGPL-2.1-only
"""A xapi that is restarted: calls wait for it, with a bound; only what does no harm is asked twice;
the log is told once."""

import contextlib
import xmlrpc.client

import pytest
import XenAPI

from storage_motion.xapi import outage, session
from web_server import serving


class Xapi:
    """What it does with each call: "answer", "refused", "reset" (nothing is done), "lost" (done,
    but the answer is lost), ..."""

    def __init__(self, *plan):
        self.plan = list(plan)
        self.done = []
        self.map = {}
        self.sessions = 0
        self.bounds = []

    @contextlib.contextmanager
    def within(self, seconds):
        self.bounds.append(seconds)
        yield

    def request(self, _host, _handler, body, verbose=False):
        parameters, method = xmlrpc.client.loads(body)
        if method == "session.login_with_password":
            self.sessions += 1
            return ({"Status": "Success", "Value": "OpaqueRef:%d" % self.sessions},)
        what = self.plan.pop(0) if self.plan else "answer"
        if what == "refused":
            raise ConnectionRefusedError(111, "refused")
        if what == "reset":
            raise ConnectionResetError(104, "reset")
        if what in ("HOST_STILL_BOOTING", "SESSION_INVALID"):
            return ({"Status": "Failure", "ErrorDescription": [what]},)
        answer = self.answer(method, parameters[1:])
        if what == "lost":
            raise ConnectionResetError(104, "reset")
        return (answer,)

    def answer(self, method, parameters):
        if method == "VDI.add_to_other_config":
            if parameters[1] in self.map:
                return {"Status": "Failure", "ErrorDescription": ["MAP_DUPLICATE_KEY"]}
            self.map[parameters[1]] = parameters[2]
        if method == "VDI.destroy" and "VDI.destroy" in self.done:
            return {
                "Status": "Failure",
                "ErrorDescription": ["HANDLE_INVALID", "VDI", parameters[0]],
            }
        if method in ("VBD.eject", "VBD.insert") and method in self.done:
            return {
                "Status": "Failure",
                "ErrorDescription": [
                    "VBD_IS_EMPTY" if method == "VBD.eject" else "VBD_NOT_EMPTY",
                    parameters[0],
                ],
            }
        self.done.append(method)
        return {
            "Status": "Success",
            "Value": self.map if method == "VDI.get_other_config" else "yes",
        }

    def close(self):
        pass


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(outage, "FIRST", 0.001)
    monkeypatch.setattr(outage, "LONGEST", 0.01)
    monkeypatch.setattr(outage, "BOUND", 5.0)


def joined(xapi, **more):
    found = session.Session("http://x/", xapi, "there", **more)
    found.login_with_password("root", "", "1.0", "sxm")
    return found


def test_a_call_waits_for_a_restart_and_the_log_is_told_once(caplog):
    xapi = Xapi("refused", "refused", "HOST_STILL_BOOTING", "SESSION_INVALID", "answer")
    assert joined(xapi).xenapi.VDI.create({}) == "yes"
    assert xapi.done == ["VDI.create"] and xapi.sessions == 2
    assert [
        record.getMessage().partition(",")[0].partition(":")[0] for record in caplog.records
    ] == ["xapi at there does not answer", "xapi at there answers again"]


@pytest.mark.parametrize(
    "method",
    ["VDI.create", "VDI.snapshot", "VM.hard_shutdown", "VBD.create", "VM.power_state_reset"],
)
def test_what_may_have_been_done_is_not_done_again(method):
    xapi = Xapi("lost")
    with pytest.raises(ConnectionResetError):
        joined(xapi).xenapi_request(method, ("r",))
    assert xapi.done == [method]


def test_what_does_no_harm_is_asked_again():
    for method in (
        "VDI.get_sm_config",
        "VDI.set_sm_config",
        "VDI.remove_from_sm_config",
        "pool.get_all",
        "VM.assert_can_migrate",
    ):
        xapi = Xapi("lost", "refused", "answer")
        assert joined(xapi).xenapi_request(method, ("r",)) == "yes"
        assert xapi.done == [method] * 2


def test_what_is_asked_as_a_task_is_as_harmless_as_the_call_itself():
    assert outage.repeatable("Async.VM.pool_migrate_complete", ("r", "h"))
    assert not outage.repeatable("Async.VDI.create", ({},))


def test_our_plugin_is_called_again_only_for_what_is_idempotent():
    assert outage.repeatable("host.call_plugin", ("h", "sxm.py", "receive-end", {}))
    assert not outage.repeatable("host.call_plugin", ("h", "sxm.py", "receive", {}))
    assert not outage.repeatable("host.call_plugin", ("h", "sxm.py", "migrate", {}))
    assert not outage.repeatable("host.call_plugin", ("h", "tapdisk-pause", "list", {}))


@pytest.mark.parametrize("call, parameters", [("eject", ("r",)), ("insert", ("r", "vdi"))])
def test_a_cd_that_was_ejected_or_inserted_before_the_answer_was_lost(call, parameters):
    xapi = Xapi("lost")
    getattr(joined(xapi).xenapi.VBD, call)(*parameters)
    assert xapi.done == ["VBD." + call]


def test_whether_it_was_done_is_looked_up():
    xapi = Xapi("lost")
    joined(xapi).xenapi.VDI.add_to_other_config("r", "key", "ours")
    assert xapi.map == {"key": "ours"}
    xapi = Xapi("lost")
    joined(xapi).xenapi.VDI.destroy("r")
    assert xapi.done == ["VDI.destroy"]


def test_somebody_elses_key_stays_an_error():
    xapi = Xapi("reset", "answer")
    xapi.map = {"key": "theirs"}
    with pytest.raises(XenAPI.Failure) as raised:
        joined(xapi).xenapi.VDI.add_to_other_config("r", "key", "ours")
    assert raised.value.details == ["MAP_DUPLICATE_KEY"]
    xapi = Xapi()
    xapi.map = {"key": "ours"}  # asked once: then it is an error even so
    with pytest.raises(XenAPI.Failure):
        joined(xapi).xenapi.VDI.add_to_other_config("r", "key", "ours")


def test_there_is_a_bound_for_an_outage_and_not_for_each_call(monkeypatch):
    monkeypatch.setattr(outage, "BOUND", 0.05)
    xapi = Xapi(*["refused"] * 10000)
    asked = joined(xapi)
    with pytest.raises(ConnectionRefusedError):
        asked.xenapi.pool.get_all()
    left = len(xapi.plan)
    with pytest.raises(ConnectionRefusedError):
        asked.xenapi.pool.get_all()
    assert len(xapi.plan) == left - 1
    del xapi.plan[:]
    monkeypatch.setattr(outage, "BOUND", 60.0)
    assert asked.xenapi.pool.get_all() == "yes"
    xapi.plan = ["refused", "refused"]
    assert asked.xenapi.pool.get_all() == "yes", "the next outage has a bound of its own"


def test_who_does_not_want_to_wait():
    for asked in (
        joined(Xapi("refused")).at_once.xenapi,
        joined(Xapi("refused"), patient=False).xenapi,
    ):
        with pytest.raises(ConnectionRefusedError):
            asked.pool.get_all()
        assert asked.pool.get_all() == "yes"


def test_a_member_whose_master_is_away_is_waited_for():
    answers = [
        (503, b""),
        (503, b""),
        (
            200,
            xmlrpc.client.dumps(
                ({"Status": "Success", "Value": "r"},), methodresponse=True
            ).encode(),
        ),
    ]
    login = [
        (
            200,
            xmlrpc.client.dumps(
                ({"Status": "Success", "Value": "s"},), methodresponse=True
            ).encode(),
        )
    ]

    def answer(_method, _path, _headers, body):
        return login[0] if b"login" in body else answers.pop(0)

    with serving(answer) as url:
        assert session.remote(url, "root", "x", 10).xenapi.pool.get_all() == "r"


def test_a_mistake_of_ours_is_not_an_outage():
    with pytest.raises(TypeError):
        joined(Xapi()).xenapi.VDI.create(object())


@pytest.mark.parametrize(
    "method, bound",
    [
        ("VDI.get_sm_config", 300.0),
        ("VDI.add_to_sm_config", 300.0),
        ("message.get", 300.0),
        ("message.destroy", 300.0),
        ("VDI.create", None),
        ("host.call_plugin", None),
        ("VM.assert_can_migrate", None),
        ("Async.VM.pool_migrate_complete", None),
    ],
)
def test_a_xapi_that_hangs_has_so_long(method, bound):
    xapi = Xapi()
    asked = joined(xapi)
    asked.xenapi_request(method, ("r", "x"))
    assert xapi.bounds[-1] == bound
    asked.at_once.xenapi.VDI.get_sm_config("r")
    assert xapi.bounds[-1] == 10.0
