# SPDX-License-Identifier: LGPL-2.1-only
"""What xapi keeps of a VM outside its database goes with it: its statistics (RRD), to another host
as to another pool, and, to another pool, the messages about it, and its blobs."""

import time

import pytest

from lab.pools.topology import PoolPlan
from lab.xapi import rrdd
from storage_motion.xapi import blobs, rrd, sent_messages
from storage_motion.xapi.session import remote

PLAN = (PoolPlan("A", ("a1", "a2"), False), PoolPlan("B", ("b1",), False))
A_YEAR = 366  # rows of the archive that goes back so far


@pytest.fixture
def history(scene):
    """What the host of the VM has noted of it: an RRD (XML), put into its rrdd."""
    with session_of(scene) as session:
        known = rrdd.document(
            time.time(), lambda rows, row, column: "%.4f" % (rows + row / 400.0 + column)
        )
        rrd.send(url_of(scene.host), session, scene.uuid, known, archive=False)
        assert rrd.holds(rrd.at(url_of(scene.host), session, scene.uuid), known)
        yield known


def session_of(scene):
    master = scene.pool.master
    return remote(url_of(master), "root", scene.pool.password)


def url_of(host):
    return "https://%s:%d" % (host.address, host.https_port)


def assert_has(scene, history):
    with session_of(scene) as session:
        found = rrd.at(url_of(scene.host), session, scene.uuid)
    assert rrd.holds(found, history)
    assert b"<v>%.4f</v>" % (A_YEAR + (A_YEAR - 1) / 400.0) in found


def test_statistics_go_to_another_host_of_the_pool(scene, history, lab):
    there, pool = lab.host("a2"), scene.pool
    migration = scene.begin(
        **{
            "vm": scene.uuid,
            "host-uuid": there.uuid,
            "destination-sr-uuid": pool.xapi.SR.get_uuid(pool.sr("a2", "fast")),
        }
    )
    entry = scene.ended(migration)
    assert (entry["state"], entry.get("warnings", [])) == ("succeeded", []), entry["error"]
    assert scene.settle() is there
    assert_has(scene, history)
    scene.assert_nothing_left()


def add_blob(scene, name, content, host=None):
    """A blob of the VM, whose contents are put to a host."""
    vm = scene.pool.xapi.VM.get_by_uuid(scene.uuid)
    ref = scene.pool.xapi.VM.create_new_blob(vm, name, "text/plain", False)
    if host:
        with session_of(scene) as session:
            blobs.send(url_of(host), session, ref, len(content), [content])
    return ref


def blobs_of(scene):
    """{name: what its master has in it} of the VM's blobs."""
    found = {}
    with session_of(scene) as session:
        for name, ref in blobs.of_vm(session, session.xenapi.VM.get_by_uuid(scene.uuid)).items():
            with blobs.at(url_of(scene.pool.master), session, ref) as content:
                found[name] = content and b"".join(content.pieces)
    return found


def test_all_go_to_another_pool(scene, history, lab):
    source, pool = scene.host, scene.pool
    note, picture = b"a note", bytes(range(256)) * 1000
    add_blob(scene, "note", note, pool.master)
    add_blob(scene, "picture", picture, lab.host("a2"))  # which the master has not
    add_blob(scene, "empty", b"")
    about = pool.xapi.message.create("VM_STARTED", "5", "VM", scene.uuid, "a <b> & \u00e4\r\nc")
    (record,) = pool.xapi.pool.get_all_records().values()
    other = pool.xapi.message.create("POOL", "3", "Pool", record["uuid"], "")
    known = pool.xapi.message.get_record(about)
    migration = scene.begin()
    entry = scene.ended(migration, source)
    assert entry["state"] == "succeeded", entry["error"]
    about_them = ("message", "RRD", "blob")
    assert not [text for text in entry.get("warnings", []) for word in about_them if word in text]
    scene.settle()
    assert_has(scene, history)
    assert blobs_of(scene) == {"note": note, "picture": picture, "empty": None}
    assert pool.xapi.blob.get_all() == []
    with session_of(scene) as session:
        assert sent_messages.about(session, scene.uuid) == {about: known}
    assert about not in pool.xapi.message.get_all_records()
    assert other in pool.xapi.message.get_all_records()
    scene.assert_runs()
    scene.assert_nothing_left()
