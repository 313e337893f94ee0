# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's xapi and rrdd: a VM's statistics, messages that come over HTTP, and blobs, by the rules
of rrdd_proxy.ml, rrdd_http_handler.ml, rrdd_server.ml, xapi_message.ml and xapi_blob.ml."""

import http.client
import os
import socket
import ssl
import time
import types
import urllib.parse
import xmlrpc.client

import pytest

from lab.http_client import UnixConnection
from lab.xapi import rrdd
from storage_motion.errors import Unreachable
from storage_motion.xapi import blobs, unanswered
from tests.eventually import eventually
from xapi_fixture import failure_of, pool_with_xenopsds, sr, vbd_record, vdi_record, vm_record, x  # noqa: F401

PATIENCE = 10.0
NOBODY = "00000000-0000-0000-0000-000000000000"
EPOCH = xmlrpc.client.DateTime("19700101T00:00:00Z")
NOT_TAKEN = "/messages: what came is not taken"
XML = '<?xml version="1.0" encoding="UTF-8"?>\n'


@pytest.fixture(scope="module")
def pool():
    with pool_with_xenopsds(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def session(pool):
    return pool.master.remote()


@pytest.fixture
def vm(pool, x, sr):
    """The UUID of a VM that runs on the member."""
    ref = x.VM.create(vm_record())
    x.VBD.create(vbd_record(ref, x.VDI.create(vdi_record(sr))))
    x.VM.start_on(ref, pool.hosts[1].ref(x), False, False)
    yield x.VM.get_uuid(ref)
    if ref in x.VM.get_all():
        if x.VM.get_power_state(ref) != "Halted":
            x.VM.hard_shutdown(ref)
        x.VM.destroy(ref)


def answered(age=0):
    """An RRD as rrdd answers it."""
    return rrdd.document(time.time() - age, lambda rows, row, column: "%d.0" % (rows * 1000 + row))


def known(age=0):
    """The same as rrdd reads it."""
    updated = b"</unknown_sec><last_updated>0.0000</last_updated>"
    return answered(age).replace(b"</unknown_sec>", updated)


def request(host, method, path, body=None, **query):
    """(status, Location) of a request over TLS; of a PUT 200 before the body is sent, and (None,
    None) where the connection ends without an answer."""
    context = ssl._create_unverified_context()
    with socket.create_connection((host.address, host.https_port), PATIENCE) as plain:
        own = context.wrap_socket(plain)
        head = "%s %s?%s HTTP/1.1\r\nHost: lab\r\n\r\n" % (
            method,
            path,
            urllib.parse.urlencode(query),
        )
        own.sendall(head.encode())
        answer = http.client.HTTPResponse(own, method=method)
        try:
            answer.begin()
        except (OSError, http.client.HTTPException):
            return None, None
        if answer.status == 200 and body is not None:
            own.sendall(body)
            own.unwrap()
        return answer.status, answer.getheader("Location")


def of_rrdd(host, method, path, body=None, patience=PATIENCE, **headers):
    """(status, body) of a request at rrdd's own socket."""
    connection = UnixConnection(host.root + rrdd.SOCKET, patience)
    connection.request(method, path, body, dict({"Connection": "close"}, **headers))
    answer = connection.getresponse()
    return answer.status, answer.read()


def memory(host, vm):
    status, body = of_rrdd(host, "GET", "/vm_rrd?uuid=" + vm)
    return body if status == 200 else None


def archive(host, vm, **arguments):
    call = xmlrpc.client.dumps((dict(arguments, vm_uuid=vm),), "archive_rrd")
    status, body = of_rrdd(host, "POST", "/", call.encode())
    assert status == 200
    xmlrpc.client.loads(body)


def archived(host, vm):
    return os.path.exists("%s%s/%s.gz" % (host.root, rrdd.ARCHIVE, vm))


def test_who_may_and_what_is_asked_for(pool, session, vm):
    handle, (master, member) = session._session, pool.hosts
    for method, path in (("GET", "/vm_rrd"), ("PUT", "/rrd"), ("PUT", "/messages")):
        assert request(master, method, path, uuid=vm, cls="VM", session_id="x")[0] == 401
        assert request(master, method, path, session_id=handle)[0] == 400
    assert request(master, "PUT", "/rrd", uuid=NOBODY, session_id=handle)[0] == 404
    host = {"uuid": master.uuid, "session_id": handle}
    assert request(master, "PUT", "/rrd", **host)[0] == 400, "a host's is only archived"
    # it closes the connection without a word
    assert request(master, "PUT", "/messages", uuid=NOBODY, cls="VM", session_id=handle)[0] is None
    assert request(member, "PUT", "/messages", uuid=vm, cls="VM")[0] == 302


class Blobs:
    """The requests of /blob at a host."""

    def __init__(self, host, handle):
        self._url = "https://%s:%d" % (host.address, host.https_port)
        self._session = types.SimpleNamespace(handle=handle)

    def put(self, ref, content):
        blobs.send(self._url, self._session, ref, len(content), [content])

    def get(self, ref):
        with blobs.at(self._url, self._session, ref) as found:
            return found and b"".join(found.pieces)


def test_a_blob_is_where_it_was_put(pool, session, x, vm):
    ref = x.VM.get_by_uuid(vm)
    blob = x.VM.create_new_blob(ref, "note", "", False)
    assert failure_of(x.VM.create_new_blob, ref, "note", "", False)[0] == "MAP_DUPLICATE_KEY"
    assert x.VM.get_blobs(ref) == {"note": blob} and int(x.blob.get_size(blob)) == 0
    assert x.blob.get_mime_type(blob) == "application/octet-stream"
    master, member = [Blobs(host, session._session) for host in pool.hosts]
    assert master.get(blob) is None
    for where, other, content in ((master, member, b"one" * 100000), (member, master, b"two")):
        where.put(blob, content)
        eventually(lambda: int(x.blob.get_size(blob)) == len(content), "its size")
        assert where.get(blob) == content and other.get(blob) != content
    query = {"session_id": session._session}
    assert request(pool.master, "GET", "/blob", **query)[0] == 400
    assert request(pool.master, "GET", "/blob", ref="OpaqueRef:no", **query)[0] == 404
    assert request(pool.master, "PUT", "/blob", ref="OpaqueRef:no", **query)[0] == 404
    assert request(pool.master, "GET", "/blob", ref=blob, session_id="x")[0] == 401
    x.blob.set_public(blob, True)
    assert request(pool.master, "GET", "/blob", ref=blob, session_id="x")[0] == 200
    assert request(pool.master, "PUT", "/blob", ref=blob, session_id="x")[0] == 401
    x.VM.hard_shutdown(ref)
    x.VM.destroy(ref)
    assert blob not in x.blob.get_all() and request(pool.master, "GET", "/blob", ref=blob)[0] == 401


def test_rrdd_ends_a_connection_only_for_who_asks_it_to(pool, vm):
    member, path = pool.hosts[1], "/vm_rrd?uuid=" + vm
    assert of_rrdd(member, "GET", path)[1].endswith(b"</rrd>")
    with pytest.raises(TimeoutError):
        of_rrdd(member, "GET", path, patience=0.5, Connection="keep-alive")


def test_a_vm_that_runs_has_statistics_on_its_host(pool, session, vm):
    handle, (master, member) = session._session, pool.hosts
    assert memory(master, vm) is None
    assert b"<v>NaN</v>" in memory(member, vm) and b"<v>1" not in memory(member, vm)
    assert request(member, "GET", "/vm_rrd", uuid=vm, session_id=handle)[0] == 200
    status, location = request(master, "GET", "/vm_rrd", uuid=vm, session_id=handle)
    assert status == 302
    assert location.startswith("https://%s:%d/vm_rrd?" % (member.address, member.https_port))
    # what comes takes the place of what there is, and goes on
    query = {"uuid": vm, "session_id": handle}
    assert request(member, "PUT", "/rrd", known(age=3600), **query)[0] == 200
    eventually(lambda: b"<v>366365.0</v>" in memory(member, vm), "its history", PATIENCE)
    assert b"<v>120119.0</v>" in memory(member, vm), "of the minutes the last hour is new"
    assert memory(member, vm).count(b"<v>120000.0</v>") == 0
    assert b"last_updated" not in memory(member, vm)


def put_rrd(host, handle, vm, body, closes):
    session = types.SimpleNamespace(handle=handle)
    path = unanswered.query(session, "/rrd", [("uuid", vm)])
    unanswered.put("https://%s:%d" % (host.address, host.https_port), path, body, closes)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rrd: rrd.replace(b"<cf>", b"<x>"),
        lambda rrd: answered(),  # seen on a real one (docs/checked-by-hand.md)
    ],
)
def test_what_is_no_rrd_is_told_behind_the_200(pool, session, vm, spoil):
    member = pool.hosts[1]
    with pytest.raises(Unreachable, match="PUT /rrd: HTTP status 500, behind a 200"):
        put_rrd(member, session._session, vm, spoil(known()), closes=True)
    assert b"<v>366365.0</v>" not in memory(member, vm)


def test_an_rrd_that_is_cut_is_not_taken(pool, session, vm):
    put_rrd(pool.hosts[1], session._session, vm, known()[:-1], closes=False)
    assert b"<v>366365.0</v>" not in memory(pool.hosts[1], vm)


def test_of_a_vm_that_halts_the_master_keeps_them(pool, session, x, vm):
    handle, (master, member) = session._session, pool.hosts
    query = {"uuid": vm, "session_id": handle}
    request(member, "PUT", "/rrd", known(), **query)
    eventually(lambda: b"<v>366365.0</v>" in memory(member, vm), "its history", PATIENCE)
    ref = x.VM.get_by_uuid(vm)
    x.VM.hard_shutdown(ref)
    eventually(lambda: archived(master, vm), "the archive", PATIENCE)
    assert memory(member, vm) is None
    status, location = request(member, "GET", "/vm_rrd", **query)
    assert status == 302 and "rrd_unarchive=&" in location
    assert location.startswith("https://%s:%d/" % (master.address, master.https_port))
    assert request(master, "GET", "/vm_rrd", **query)[0] == 200
    x.VM.start_on(ref, member.ref(x), False, False)
    assert b"<v>366365.0</v>" in memory(member, vm), "they go on"
    x.VM.hard_shutdown(ref)
    x.VM.destroy(ref)
    assert not archived(master, vm)
    assert request(master, "GET", "/vm_rrd", **query)[0] == 500, "as it finds no such VM"


def test_archiving(pool, session, x, vm):
    handle, (master, member) = session._session, pool.hosts
    query = {"uuid": vm, "session_id": handle, "archive": "true"}
    status, location = request(member, "PUT", "/rrd", **query)
    assert status == 302 and location.startswith("https://%s:" % master.address)
    assert request(master, "PUT", "/rrd", known(), **query)[0] == 200
    eventually(lambda: archived(master, vm), "the archive", PATIENCE)
    os.unlink("%s%s/%s.gz" % (master.root, rrdd.ARCHIVE, vm))
    memory(member, vm)
    archive(member, vm, remote_address=master.address)
    assert archived(master, vm) and not archived(member, vm)
    memory(member, vm)
    archive(member, vm)
    assert archived(member, vm), "without an address on its own disk"


def message(vm, ref, body="a &lt;b&gt;", more="", second=1):
    return (
        XML + "<message><ref>OpaqueRef:%s</ref><name>ALARM</name><priority>3</priority>"
        "<cls>VM</cls><obj_uuid>%s</obj_uuid><timestamp>20260101T00:00:%02dZ</timestamp>"
        "<uuid>u-%s</uuid>%s<body>%s</body></message>" % (ref, vm, second, ref, more, body)
    ).encode()


def test_messages_that_come_by_http(pool, session, x, vm):
    query = {"uuid": vm, "cls": "VM", "session_id": session._session}

    def put(body):
        assert request(pool.master, "PUT", "/messages", body, **query)[0] == 200
        return x.message.get("VM", vm, EPOCH)

    assert put(message(vm, "1")[:-1]) == {}
    assert put(message(vm, "1") + message(vm, "2", more=" ")) == {}, "none, for a blank in one"
    found = put(message(vm, "1") + message(vm, "2"))
    assert {record["body"] for record in found.values()} == {"a <b>"}
    assert sorted(found) == ["OpaqueRef:1", "OpaqueRef:2"]
    assert put(message(vm, "1", body="another")) == found, "what is there stays"
    many = b"".join(message(vm, "m%d" % number, second=2) for number in range(20))
    assert len(put(many)) == 2 + 11, "more of one second find no name for their file"
    assert failure_of(x.message.get, "VM", NOBODY, EPOCH) == ["UUID_INVALID"]
    for ref in x.message.get("VM", vm, EPOCH):
        x.message.destroy(ref)


def test_what_is_cut_is_not_taken(pool, session, x, vm):
    """TLS has an end of its own, and stunnel resets what ends without it."""
    query = {"uuid": vm, "cls": "VM", "session_id": session._session}
    before = pool.master.log().count(NOT_TAKEN)
    context = ssl._create_unverified_context()
    with socket.create_connection((pool.master.address, pool.master.https_port), PATIENCE) as plain:
        own = context.wrap_socket(plain)
        own.sendall(
            b"PUT /messages?%s HTTP/1.1\r\n\r\n" % urllib.parse.urlencode(query).encode()
            + message(vm, "1")
        )
        assert own.recv(1024).startswith(b"HTTP/1.1 200")
        os.close(own.detach())
    eventually(lambda: pool.master.log().count(NOT_TAKEN) > before, "its end", PATIENCE)
    assert x.message.get("VM", vm, EPOCH) == {}
