# SPDX-License-Identifier: LGPL-2.1-only
"""xenopsd's calls and answers, in the encoding of its interface."""

import ssl
import xmlrpc.client

import pytest
import XenAPI

from storage_motion.errors import TimedOut, Unreachable, XenopsError
from storage_motion.xapi import outage, transport, xenops
from web_server import serving


def envelope(value, status="Success", key="Value"):
    return 200, xmlrpc.client.dumps(
        ({"Status": status, key: value},), methodresponse=True, allow_none=True
    ).encode()


def ask(answer, call, seen=None):
    def handler(method, path, headers, body):
        if seen is not None:
            seen.append((path,) + xmlrpc.client.loads(body))
        return answer

    with serving(handler) as url:
        return call(xenops.Xenops.at(url + "/services/xenops?session_id=OpaqueRef%3As", "label"))


def test_migrate():
    seen = []
    task = ask(
        envelope("7"),
        lambda x: x.migrate(
            "vm",
            {"s/a": "d/b"},
            {"0": "xapi0"},
            "https://b/services/xenops?session_id=x",
            False,
            True,
            False,
        ),
        seen,
    )
    ((path, (parameters,), method),) = seen
    assert (
        task == "7"
        and method == "VM.migrate"
        and path == "/services/xenops?session_id=OpaqueRef%3As"
    )
    assert parameters == {
        "debug_info": "label",
        "id": "vm",
        "vdi_map": {"s/a": "d/b"},
        "vif_map": {"0": ["Local", "xapi0"]},
        "pci_map": {},
        "xenops_url": "https://b/services/xenops?session_id=x",
        "compress": False,
        "verify_dest": True,
        "localhost_migration": False,
    }


@pytest.mark.parametrize(
    "state, expected",
    [
        (["Pending", 0.5], ("Pending", 0.5)),
        (["Completed", {"duration": 1.0}], ("Completed", {"duration": 1.0})),
        (["Failed", ["Internal_error", "boom"]], ("Failed", ["Internal_error", "boom"])),
        (["Failed", "Unknown_error"], ("Failed", ["Unknown_error"])),
        (
            ["Failed", ["Storage_backend_error", ["SR_BACKEND", ["a", "b"]]]],
            ("Failed", ["Storage_backend_error", "SR_BACKEND", "a", "b"]),
        ),
    ],
)
def test_task(state, expected):
    assert ask(envelope({"id": "7", "state": state}), lambda x: x.task("7")) == expected


def test_power_state():
    assert (
        ask(envelope([{"id": "vm"}, {"power_state": "Running"}]), lambda x: x.power_state("vm"))
        == "Running"
    )
    assert ask(envelope({"power_state": "Paused"}), lambda x: x.power_state("vm")) == "Paused"
    assert (
        ask(
            envelope(["Does_not_exist", ["VM", "vm"]], "Failure", "ErrorDescription"),
            lambda x: x.power_state("vm"),
        )
        is None
    )


def test_forgetting_what_is_gone_or_runs():
    for error in (["Does_not_exist", ["VM", "vm"]], ["Bad_power_state", ["Running", "Halted"]]):
        ask(envelope(error, "Failure", "ErrorDescription"), lambda x: x.forget("vm"))
    with pytest.raises(XenopsError):
        ask(envelope("IO_error", "Failure", "ErrorDescription"), lambda x: x.forget("vm"))


@pytest.mark.parametrize(
    "answer, error",
    [
        ((500, b""), Unreachable),
        ((404, b""), XenopsError),
        ((200, b"not XML"), Unreachable),
        ((200, b""), Unreachable),
        (
            (200, xmlrpc.client.dumps(xmlrpc.client.Fault(1, "no such method")).encode()),
            XenopsError,
        ),
    ],
)
def test_what_is_no_answer(answer, error):
    with pytest.raises(error):
        ask(answer, lambda x: x.task("7"))


def test_nobody_there():
    with serving(lambda *_: (200, b"")) as url:
        pass
    with pytest.raises(Unreachable):
        xenops.Xenops.at(url + "/services/xenops?session_id=x", "label", timeout=5).task("7")


def asked_with_sessions(known, new_url):
    """What a xapi that knows the sessions `known` answers, and the sessions that it was asked
    with."""
    seen = []

    def handler(method, path, headers, body):
        seen.append(path.partition("session_id=")[2])
        return (
            envelope({"power_state": "Running"}) if seen[-1] in known else (401, b"SESSION_INVALID")
        )

    with serving(handler) as url:
        try:
            return xenops.Xenops.at(
                url + "/services/xenops?session_id=old", "label", new_url=new_url
            ).power_state("vm"), seen
        except (Unreachable, XenopsError) as error:
            return error, seen


def test_a_xapi_that_was_restarted_is_given_a_session_of_now():
    assert asked_with_sessions({"new"}, lambda: "https://b/services/xenops?session_id=new") == (
        "Running",
        ["old", "new"],
    )


def test_only_once():
    error, seen = asked_with_sessions(set(), lambda: "https://b/services/xenops?session_id=new")
    assert isinstance(error, XenopsError) and seen == ["old", "new"]
    error, seen = asked_with_sessions(set(), None)
    assert isinstance(error, XenopsError) and seen == ["old"]


@pytest.mark.parametrize(
    "raised",
    [
        ConnectionRefusedError("no"),
        XenAPI.Failure(["SESSION_AUTHENTICATION_FAILED", "root", "secret"]),
    ],
)
def test_no_new_session(raised):
    def new_url():
        raise raised

    error, _ = asked_with_sessions(set(), new_url)
    assert isinstance(error, Unreachable) and "secret" not in str(error)


def test_a_xenopsd_that_is_away():
    for status in (502, 503):
        with pytest.raises(Unreachable):
            ask((status, b""), lambda x: x.power_state("vm"))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(outage, "FIRST", 0.001)
    monkeypatch.setattr(outage, "BOUND", 30.0)


REFUSALS = {
    "refused": ConnectionRefusedError(111, "refused"),
    # by a stunnel without a xapi
    "cut": ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
}


def passed_on(plan, call, patient=True):
    """`call` of an Xenops whose xapi does what `plan` says with each connection, then answers; and
    how many requests it got."""
    plan, seen = list(plan), []

    def handler(method, path, headers, body):
        seen.append(method)
        what = plan.pop(0) if plan else "answer"
        return (500, b"") if what == "starting" else envelope("7")

    def connect():
        if plan and plan[0] in REFUSALS:
            raise REFUSALS[plan.pop(0)]
        return transport.connection(url, 5.0)

    with serving(handler) as url:
        away = outage.Outage("there") if patient else None
        try:
            return call(xenops.Xenops(connect, "session_id=x", "label", outage=away)), len(seen)
        except Unreachable as error:
            return error, len(seen)


@pytest.mark.parametrize(
    "plan", [["refused"], ["cut"], ["starting"], ["refused", "cut", "starting", "starting"]]
)
def test_a_xapi_that_is_restarted_is_waited_for(quick, plan):
    assert passed_on(plan, lambda x: x.call("VM.stat", id="vm")) == (
        "7",
        plan.count("starting") + 1,
    )
    error, _ = passed_on(plan, lambda x: x.call("VM.stat", id="vm"), patient=False)
    assert isinstance(error, Unreachable)
    error, _ = passed_on(plan, lambda x: x.at_once.call("VM.stat", id="vm"))
    assert isinstance(error, Unreachable)


@pytest.mark.parametrize("method", xenops.ONCE)
def test_what_may_have_been_begun_is_not_begun_twice(quick, method):
    assert passed_on(["refused"], lambda x: x.call(method, id="vm")) == ("7", 1)
    error, requests = passed_on(["refused", "cut"], lambda x: x.call(method, id="vm"))
    assert isinstance(error, Unreachable) and requests == 0
    error, requests = passed_on(["refused", "starting"], lambda x: x.call(method, id="vm"))
    assert isinstance(error, Unreachable) and requests == 1


def test_a_xapi_that_stays_away(quick, monkeypatch):
    monkeypatch.setattr(outage, "BOUND", 0.05)
    error, _ = passed_on(["refused"] * 10000, lambda x: x.call("VM.stat", id="vm"))
    assert isinstance(error, Unreachable) and "refused" in str(error)


class Xenopsd:
    """One that knows one VM, in some state. `script`: what its shutdown's task is at each look."""

    def __init__(self, state, *script):
        self.state, self.script, self.seen = state, list(script), []

    def answer(self, method, path, headers, body):
        (parameters,), name = xmlrpc.client.loads(body)
        self.seen.append(name)
        if name == "VM.stat":
            return (
                envelope(["Does_not_exist", ["VM", "vm/config"]], "Failure", "ErrorDescription")
                if self.state is None
                else envelope([{"id": "vm"}, {"power_state": self.state}])
            )
        if name == "Task.stat":
            return envelope({"id": "7", "state": self.script.pop(0)})
        if name == "VM.remove":
            self.state = None
        return envelope("7" if name == "VM.shutdown" else None)

    def end(self):
        with serving(self.answer) as url:
            xenops.Xenops.at(url + "/services/xenops?session_id=x", "label", timeout=5).end("vm")
        return self.seen


def test_ending_a_vm(monkeypatch):
    monkeypatch.setattr(xenops, "POLL", 0.0)
    assert Xenopsd(None).end() == ["VM.stat"]
    done = ["Completed", {"duration": 0.1}]
    ended = ["VM.stat", "VM.shutdown", "Task.stat", "Task.stat", "Task.destroy", "VM.remove"]
    assert Xenopsd("Suspended", ["Pending", 0.1], done).end() == ended
    assert (
        Xenopsd(
            "Paused", ["Pending", 0.1], ["Failed", ["Does_not_exist", ["VM", "vm/config"]]]
        ).end()
        == ended
    ), "somebody was faster"
    with pytest.raises(XenopsError, match="IO_error"):
        Xenopsd("Paused", ["Failed", "IO_error"]).end()
    monkeypatch.setattr(xenops, "END_TIMEOUT", -1.0)
    with pytest.raises(TimedOut, match="shutdown of VM vm"):
        Xenopsd("Paused", ["Pending", 0.1]).end()


def test_whether_it_is_busy_with_ours():
    def busy(*states):
        def answer(method, path, headers, body):
            (parameters,), name = xmlrpc.client.loads(body)
            if name == "Task.list":
                return envelope(
                    [
                        {"id": str(number), "dbg": dbg, "ctime": number}
                        for number, (dbg, _) in enumerate(states)
                    ]
                )
            return envelope(
                {"id": parameters["id"], "state": [states[int(parameters["id"])][1], 0.5]}
            )

        with serving(answer) as url:
            return xenops.Xenops.at(
                url + "/services/xenops?session_id=x", "label", timeout=5
            ).busy()

    assert (
        not busy()
        and not busy(("other", "Pending"), ("label", "Completed"))
        and busy(("label", "Completed"), ("label", "Pending"))
    )


def test_the_metadata_goes_as_the_recorded_calls_do():
    seen = []
    ask(envelope("{}"), lambda x: x.export_metadata("vm"), seen)
    ask(envelope("vm"), lambda x: x.import_metadata("{}"), seen)
    ask(envelope(None), lambda x: x.refresh("vm"), seen)
    assert [(method, parameters) for _, (parameters,), method in seen] == [
        ("VM.export_metadata", {"debug_info": "label", "id": "vm"}),
        ("VM.import_metadata", {"debug_info": "label", "metadata": "{}"}),
        ("UPDATES.refresh_vm", {"debug_info": "label", "id": "vm"}),
    ]
