"""xenopsd's calls and answers, in the encoding of its interface."""
import xmlrpc.client

import pytest

from storage_motion.errors import Unreachable, XenopsError
from storage_motion.xapi import xenops
from web_server import serving


def envelope(value, status="Success", key="Value"):
    return 200, xmlrpc.client.dumps(({"Status": status, key: value},), methodresponse=True, allow_none=True).encode()


def ask(answer, call, seen=None):
    def handler(method, path, headers, body):
        if seen is not None:
            seen.append((path,) + xmlrpc.client.loads(body))
        return answer
    with serving(handler) as url:
        return call(xenops.Xenops.at(url + "/services/xenops?session_id=OpaqueRef%3As", "label"))


def test_migrate():
    seen = []
    task = ask(envelope("7"), lambda x: x.migrate("vm", {"s/a": "d/b"}, {"0": "xapi0"}, "https://b/services/xenops?session_id=x",
                                                  False, True, False), seen)
    (path, (parameters,), method), = seen
    assert task == "7" and method == "VM.migrate" and path == "/services/xenops?session_id=OpaqueRef%3As"
    assert parameters == {"debug_info": "label", "id": "vm", "vdi_map": [["s/a", "d/b"]], "vif_map": [["0", ["Local", "xapi0"]]],
                          "pci_map": [], "xenops_url": "https://b/services/xenops?session_id=x", "compress": False,
                          "verify_dest": True, "localhost_migration": False}


@pytest.mark.parametrize("state, expected", [
    (["Pending", 0.5], ("Pending", 0.5)),
    (["Completed", {"duration": 1.0}], ("Completed", {"duration": 1.0})),
    (["Failed", ["Internal_error", "boom"]], ("Failed", ["Internal_error", "boom"])),
    (["Failed", "Unknown_error"], ("Failed", ["Unknown_error"])),
    (["Failed", ["Storage_backend_error", ["SR_BACKEND", ["a", "b"]]]], ("Failed", ["Storage_backend_error", "SR_BACKEND", "a", "b"])),
])
def test_task(state, expected):
    assert ask(envelope({"id": "7", "state": state}), lambda x: x.task("7")) == expected


def test_power_state():
    assert ask(envelope([{"id": "vm"}, {"power_state": "Running"}]), lambda x: x.power_state("vm")) == "Running"
    assert ask(envelope({"power_state": "Paused"}), lambda x: x.power_state("vm")) == "Paused"
    assert ask(envelope(["Does_not_exist", ["VM", "vm"]], "Failure", "ErrorDescription"), lambda x: x.power_state("vm")) is None


def test_forgetting_what_is_gone_or_runs():
    for error in (["Does_not_exist", ["VM", "vm"]], ["Bad_power_state", ["Running", "Halted"]]):
        ask(envelope(error, "Failure", "ErrorDescription"), lambda x: x.forget("vm"))
    with pytest.raises(XenopsError):
        ask(envelope("IO_error", "Failure", "ErrorDescription"), lambda x: x.forget("vm"))


@pytest.mark.parametrize("answer, error", [
    ((500, b""), XenopsError), ((200, b"not XML"), Unreachable), ((200, b""), Unreachable),
    ((200, xmlrpc.client.dumps(xmlrpc.client.Fault(1, "no such method")).encode()), XenopsError)])
def test_what_is_no_answer(answer, error):
    with pytest.raises(error):
        ask(answer, lambda x: x.task("7"))


def test_nobody_there():
    with serving(lambda *_: (200, b"")) as url:
        pass
    with pytest.raises(Unreachable):
        xenops.Xenops.at(url + "/services/xenops?session_id=x", "label", timeout=5).task("7")
