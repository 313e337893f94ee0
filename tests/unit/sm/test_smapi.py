# SPDX-License-Identifier: LGPL-2.1-only
"""Running a driver: what it is given, and what is made of what it says."""

import json
import os
import stat
import sys

import pytest

from storage_motion.errors import SmFault
from storage_motion.sm import smapi

DRIVER = """#!%s
import json, sys, xmlrpc.client
(given,), name = xmlrpc.client.loads(sys.argv[1])
with open(%r, "w") as out:
    json.dump([name, given], out)
%s
"""


class Class(object):
    """One class of a XenAPI: methods by name."""

    def __init__(self, **methods):
        self.__dict__.update(methods)


class Session(object):
    """A pool of two hosts, h (this one) and m (the master), with an SR `s` and a VDI `v`."""

    _session = "OpaqueRef:session"

    def __init__(self, shared=False, master="m"):
        vdi = {
            "uuid": "v-uuid",
            "location": "v-location",
            "on_boot": "persist",
            "allow_caching": False,
        }
        hosts = {"p1": "m", "p2": "h"}
        configs = {"p1": {"location": "/elsewhere"}, "p2": {"location": "/here"}}
        self.xenapi = Class(
            host=Class(get_by_uuid={"h-uuid": "h"}.__getitem__),
            SR=Class(
                get_PBDs=lambda sr: ["p1", "p2"],
                get_uuid=lambda sr: sr + "-uuid",
                get_shared=lambda sr: shared,
                get_type=lambda sr: "file",
            ),
            PBD=Class(get_host=hosts.__getitem__, get_device_config=configs.__getitem__),
            VDI=Class(get_record=lambda ref: vdi),
            pool=Class(get_all=lambda: ["pool"], get_master=lambda ref: master),
        )


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A root with an inventory; `host(body)` installs a driver that runs `body`, and answers what
    it was given."""
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/xensource-inventory").write_text("INSTALLATION_UUID='h-uuid'\n")
    drivers = tmp_path / "opt/xensource/sm"
    drivers.mkdir(parents=True)

    def install(body, name="MirrorSR"):
        path = drivers / name
        path.write_text(DRIVER % (sys.executable, str(tmp_path / "given"), body))
        os.chmod(str(path), stat.S_IRWXU)
        return lambda: json.loads((tmp_path / "given").read_text())

    return install


ANSWER = "print(xmlrpc.client.dumps((%r,), '', True))"


def test_the_argument_is_xapis(host):
    given = host(ANSWER % "yes")
    assert smapi.call(Session(), "s", "vdi_mirror_start", vdi_ref="v", args=["/x"]) == "yes"
    assert given() == [
        "vdi_mirror_start",
        {
            "host_ref": "h",
            "command": "vdi_mirror_start",
            "args": ["/x"],
            "session_ref": "OpaqueRef:session",
            "device_config": {"location": "/here", "SRmaster": "true", "type": "file"},
            "sr_ref": "s",
            "sr_uuid": "s-uuid",
            "vdi_ref": "v",
            "vdi_uuid": "v-uuid",
            "vdi_location": "v-location",
            "vdi_on_boot": "persist",
            "vdi_allow_caching": "false",
        },
    ]


def test_a_slave_of_a_shared_sr_is_not_its_master(host):
    given = host(ANSWER % "")
    smapi.call(Session(shared=True), "s", "sr_scan")
    assert "SRmaster" not in given()[1]["device_config"]
    smapi.call(Session(shared=True, master="h"), "s", "sr_scan")
    assert given()[1]["device_config"]["SRmaster"] == "true"


def test_driver_parameters_and_another_driver(host):
    given = host(ANSWER % {"uuid": "u"}, name="FileSR")
    assert smapi.call(
        Session(),
        "s",
        "vdi_snapshot",
        vdi_ref="v",
        driver_params={"mirror": "nbd:x"},
        driver="FileSR",
    ) == {"uuid": "u"}
    assert given()[1]["driver_params"] == {"mirror": "nbd:x"}


def test_nil(host):
    host("print(xmlrpc.client.dumps((None,), '', True, allow_none=True))")
    assert smapi.call(Session(), "s", "sr_scan") is None


def test_a_fault_is_typed(host):
    host(
        "print(xmlrpc.client.dumps(xmlrpc.client.Fault(46, 'The VDI is not available'), '', True))"
    )
    with pytest.raises(SmFault) as raised:
        smapi.call(Session(), "s", "vdi_activate", vdi_ref="v")
    assert (raised.value.command, raised.value.fault, raised.value.text) == (
        "vdi_activate",
        46,
        "The VDI is not available",
    )
    assert raised.value.failure() == [
        "SXM_SM_FAULT",
        "vdi_activate",
        "46",
        "The VDI is not available",
    ]


@pytest.mark.parametrize(
    "body, said, timeout",
    [
        ("sys.exit('Traceback: boom')", "boom", 60),
        ("print('not XML')", "not XML", 60),
        ("print('<methodResponse></methodResponse>')", "methodResponse", 60),
        ("import time; time.sleep(300)", "within 1 s", 1),
    ],
)
def test_no_answer_is_a_fault_without_a_number(host, body, said, timeout):
    host(body)
    with pytest.raises(SmFault) as raised:
        smapi.call(Session(), "s", "sr_scan", timeout=timeout)
    assert raised.value.fault is None
    assert said in raised.value.text


def test_no_driver(host):
    with pytest.raises(SmFault, match="cannot run"):
        smapi.call(Session(), "s", "sr_scan")


def test_an_sr_that_is_not_connected_here(host):
    session = Session()
    session.xenapi.PBD.get_host = lambda pbd: "m"
    with pytest.raises(SmFault, match="no PBD"):
        smapi.call(session, "s", "sr_scan")
