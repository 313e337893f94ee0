# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's xapi: what a member may write into the master's database, answered as a real one was
seen to (docs/checked-by-hand.md); and the product's half of it, against that."""

import http.client
import uuid

import pytest

from lab.http_client import UnixConnection
from storage_motion.errors import BadArguments, FieldNotWritten
from storage_motion.plan.checks import CLAIM
from storage_motion.xapi import database_fields
from xapi_fixture import pool_with_xenopsds, sr, vbd_record, vdi_record, vm_record, x  # noqa: F401

PATIENCE = 10.0
NULL = "OpaqueRef:NULL"


@pytest.fixture(scope="module")
def pool():
    with pool_with_xenopsds(2) as pool:
        yield pool


@pytest.fixture
def session(pool):
    session = pool.master.local()
    yield session
    session.xenapi.session.logout()


@pytest.fixture
def vbd(x, sr):
    """Of a halted VM, with a disk."""
    vm = x.VM.create(vm_record())
    vbd = x.VBD.create(vbd_record(vm, x.VDI.create(vdi_record(sr))))
    yield vbd
    if x.VM.get_power_state(vm) != "Halted":
        x.VM.hard_shutdown(vm)
    x.VM.destroy(vm)


def array(*items):
    values = [item if item.startswith("<") else "<value>%s</value>" % item for item in items]
    return "<value><array><data>%s</data></array></value>" % "".join(values)


def write(*arguments):
    return array("write_field", "", array(*arguments))


def post(connection, body, query=""):
    connection.request("POST", database_fields.URI + query, body.encode())
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def over_network(host):
    return http.client.HTTPConnection(host.address, host.http_port, timeout=PATIENCE)


def at_socket(host):
    return UnixConnection(host.root + "/var/lib/xcp/xapi", PATIENCE)


def test_who_may(pool, x, sr, vbd, session):
    new = x.VDI.create(vdi_record(sr))
    body = write("VBD", vbd, "VDI", new)
    master, member = pool.hosts
    assert post(over_network(master), body)[0] == 401
    assert post(over_network(master), body, "?session_id=OpaqueRef:no")[0] == 401
    assert post(over_network(member), body, "?session_id=" + session._session)[0] == 404
    assert post(at_socket(member), body)[0] == 404
    assert x.VBD.get_VDI(vbd) != new
    status, answer = post(over_network(master), body, "?session_id=" + session._session)
    assert (status, answer) == (200, array("success", "").replace("<value></value>", "<value/>"))
    assert x.VBD.get_VDI(vbd) == new


def test_it_is_one_change_with_both_ends_of_the_relation(pool, x, sr, vbd):
    old, new = x.VBD.get_VDI(vbd), x.VDI.create(vdi_record(sr))
    token = getattr(x.event, "from")(["VBD", "VDI"], "", 1.0)["token"]
    for _ in range(2):
        assert post(at_socket(pool.master), write("VBD", vbd, "VDI", new))[0] == 200
        assert (x.VDI.get_VBDs(old), x.VDI.get_VBDs(new)) == ([], [vbd])
    seen = getattr(x.event, "from")(["VBD", "VDI"], token, 5.0)["events"]
    assert {(event["operation"], event["ref"]) for event in seen} == {
        ("mod", ref) for ref in (vbd, old, new)
    }


@pytest.mark.parametrize(
    "body, status, said",
    [
        (write("VBX", "r", "VDI", "v"), 200, "missing table"),
        (write("VBD", "OpaqueRef:x", "XDI", "v"), 200, "missing column"),
        (write("VBD", "OpaqueRef:x", "VDI", "v"), 200, "missing row"),
        (write("VBD", "r", "VDI"), 500, "DB_remote_marshall_error"),
        (array("write_fields", "", array("x")), 500, "UnknownMessageName"),
        ("hello", 500, "XML Error"),
    ],
)
def test_what_it_does_not_take(pool, body, status, said):
    found = post(at_socket(pool.master), body)
    assert found[0] == status and said in found[1]


def test_a_value_may_lead_nowhere(pool, x, vbd):
    assert post(at_socket(pool.master), write("VBD", vbd, "VDI", "OpaqueRef:nope"))[0] == 200
    assert x.VBD.get_VDI(vbd) == "OpaqueRef:nope"


def test_the_products_half(pool, x, sr, vbd, session, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", pool.master.root)
    vm, new, image = x.VBD.get_VM(vbd), x.VDI.create(vdi_record(sr)), x.VDI.create(vdi_record(sr))
    migration = str(uuid.uuid4())
    turn = {"migration": migration, "turn": "1"}
    given = dict(turn, **{"class": "VBD"}, uuid=x.VBD.get_uuid(vbd), vdi=x.VDI.get_uuid(new))
    with pytest.raises(FieldNotWritten, match="its VM is Halted"):
        database_fields.write_here(session, given)
    assert x.VBD.get_VDI(vbd) != new
    x.VM.set_suspend_SR(vm, sr)
    x.VM.start(vm, False, False)
    x.VM.suspend(vm)
    with pytest.raises(FieldNotWritten, match="not claimed"):
        database_fields.write_here(session, given)
    x.VM.add_to_other_config(vm, CLAIM, migration)
    assert database_fields.begin_here(session, turn) == {}
    for _ in range(2):
        assert database_fields.write_here(session, given) == {"written": True}
        assert x.VBD.get_VDI(vbd) == new
    memory = dict(given, **{"class": "VM"}, uuid=x.VM.get_uuid(vm), vdi=x.VDI.get_uuid(image))
    database_fields.write_here(session, memory)
    assert x.VM.get_suspend_VDI(vm) == image
    with pytest.raises(BadArguments, match="uuid: .*vdi: .*class: "):
        wrong = dict(turn, **{"class": "VIF"}, uuid="../x", vdi="<y>")
        database_fields.write_here(session, wrong)
    monkeypatch.setenv("SXM_ROOT", pool.hosts[1].root)
    with pytest.raises(FieldNotWritten, match="HTTP status 404"):
        database_fields.write_here(session, given)
