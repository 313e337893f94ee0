# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's xe: command lines, output and refusals in the forms of the real one."""

import pytest

from lab.xe import __main__ as xe, listing
from lab.xe.commands import COMMANDS
from lab.xe.errors import XeError, of_xapi


class Table:
    def __init__(self, **records):
        self._records = records

    def get_all_records(self):
        return self._records

    def get_all(self):
        return list(self._records)

    def get_uuid(self, ref):
        return self._records[ref]["uuid"]

    def get_by_uuid(self, uuid):
        return next(ref for ref, record in self._records.items() if record["uuid"] == uuid)


VM = {
    "is_a_template": False,
    "is_control_domain": False,
    "power_state": "Running",
    "name_description": "",
    "other_config": {},
    "tags": [],
}


class Xapi:
    VM = Table(
        v1=dict(VM, uuid="u1", name_label="web, one", other_config={"k": "v"}, tags=["red"]),
        v2=dict(VM, uuid="u2", name_label="db", power_state="Halted"),
        t1=dict(VM, uuid="u3", name_label="template", is_a_template=True),
    )
    VDI = Table(d1={"uuid": "d-1"})
    VBD = Table(
        b1={"uuid": "b-1", "VM": "v1", "VDI": "d1", "device": "xvda", "empty": False},
        b2={"uuid": "b-2", "VM": "v1", "VDI": "OpaqueRef:NULL", "device": "xvdd", "empty": True},
    )
    task = Table(
        t={
            "uuid": "k-1",
            "name_label": "move",
            "name_description": "",
            "status": "pending",
            "progress": 0.5,
        }
    )


def test_records_look_as_xe_prints_them():
    assert listing.list_records(Xapi, "vm", {"name-label": "db"}) == (
        "uuid ( RO)           : u2\n     name-label ( RW): db\n    power-state ( RO): halted\n\n\n"
    )
    assert "progress ( RO): 0.5\n" in listing.list_records(Xapi, "task", {})


def test_minimal_escapes_commas_and_takes_the_first_field():
    assert (
        listing.list_records(Xapi, "vm", {"params": "name-label", "minimal": "true"})
        == "web\\, one,db\n"
    )
    assert listing.list_records(Xapi, "vm", {"minimal": "true"}) == "u1,u2\n"


@pytest.mark.parametrize(
    "filters, found",
    [
        ({"power-state": "running"}, "u1"),
        ({"other-config:k": "v"}, "u1"),
        ({"other-config-k": "v"}, "u1"),
        ({"tags:contains": "red"}, "u1"),
        ({"uuid": "nobody"}, ""),
        ({"is-a-template": "true"}, ""),
    ],
)
def test_filters(filters, found):
    assert listing.list_records(Xapi, "vm", dict(filters, minimal="true")).strip() == found


def test_references_are_followed():
    text = listing.list_records(Xapi, "vbd", {"params": "vm-name-label,vdi-uuid"})
    assert "web, one" in text and "d-1" in text and "<not in database>" in text


def test_an_unknown_field_is_an_error():
    with pytest.raises(XeError, match="Unknown field 'colour'"):
        listing.list_records(Xapi, "vm", {"colour": "red"})
    with pytest.raises(XeError, match="Invalid syntax for set"):
        listing.list_records(Xapi, "vm", {"tags:red": "red"})


def test_command_lines():
    assert xe.parse(
        "-s h -p 44 -u root -pw x vm-list uuid=a --minimal params=uuid,name-label".split()
    ) == (
        {"server": "h", "port": "44", "username": "root", "password": "x"},
        "vm-list",
        {"uuid": "a", "minimal": "true", "params": "uuid,name-label"},
    )
    assert xe.parse(["host-call-plugin", "args:vdi:u=v", "args:pw=a=b"])[2] == {
        "args:vdi:u": "v",
        "args:pw": "a=b",
    }
    with pytest.raises(XeError, match="Syntax error"):
        xe.parse(["vm-list", "what"])


def test_a_plugin_call_passes_arguments_and_prints_the_answer(tmp_path):
    (tmp_path / "secret").write_text("s")
    called = []

    class Host(Table):
        def call_plugin(self, *arguments):
            called.append(arguments)
            return '{"a": 1}'

    class WithHost:
        host = Host(h={"uuid": "h-1"})

    parameters = {
        "host-uuid": "h-1",
        "plugin": "sxm.py",
        "fn": "migrate",
        "args:vm": "u1",
        "args:pw:file": str(tmp_path / "secret"),
    }
    assert COMMANDS["host-call-plugin"](WithHost, parameters) == '{"a": 1}\n'
    assert called == [("h", "sxm.py", "migrate", {"vm": "u1", "pw": "s"})]
    with pytest.raises(XeError, match="Required parameter not found: plugin"):
        COMMANDS["host-call-plugin"](WithHost, {"host-uuid": "h-1"})


def test_an_sr_is_created_with_its_maps():
    created = []

    class Srs(Table):
        def create(self, *arguments):
            created.append(arguments)
            return "s"

    class Pool:
        host, SR = Table(h={"uuid": "h-1"}), Srs(s={"uuid": "s-1"})

    given = {
        "name-label": "fast",
        "type": "mirror",
        "device-config:type": "ext",
        "device-config:device": "/dev/sdb",
    }
    expected = (
        "h",
        {"type": "ext", "device": "/dev/sdb"},
        "0",
        "fast",
        "",
        "mirror",
        "",
        False,
        {},
    )
    assert (
        COMMANDS["sr-create"](Pool, dict(given, **{"host-uuid": "h-1"}))
        == COMMANDS["sr-create"](Pool, given)
        == "s-1\n"
    )
    assert created == [expected, expected]
    with pytest.raises(XeError, match="Required parameter not found: type"):
        COMMANDS["sr-create"](Pool, {"name-label": "fast"})
    Pool.host = Table(h={"uuid": "h-1"}, i={"uuid": "i-1"})
    with pytest.raises(XeError, match="Required parameter not found: host-uuid"):
        COMMANDS["sr-create"](Pool, given)


def test_refusals(capsys, monkeypatch):
    assert of_xapi(["SXM_NO_ROOM", "sr", "1"]).lines == (
        "Error code: SXM_NO_ROOM",
        "Error parameters: sr, 1",
    )
    assert of_xapi(["UUID_INVALID", "VM", "x"]).lines[1:] == ("type: VM", "uuid: x")
    monkeypatch.setattr(xe.sys, "argv", ["xe", "vm-fly"])
    assert xe.main() == 1
    assert capsys.readouterr().err == "Unknown command: vm-fly\nFor usage run: 'xe help'\n"
