# SPDX-License-Identifier: LGPL-2.1-only
"""What of the lab's xapi is on disk, and when: a xapi that is killed comes back as it was at its
last flush or sync."""

import json
import os
import signal
import threading
import xmlrpc.client

import pytest

from lab.xapi import config, daemon
from lab.xapi.schema import CLASSES
from storage_motion.errors import Unreachable
from storage_motion.xapi import session as sessions, xenops
from storage_motion.xapi.records import Records
from tests.eventually import eventually
from xapi_fixture import (
    REPOSITORY,
    LabPool,
    UnixSession,
    failure_of,
    make_sr,
    vbd_record,
    vdi_record,
    vm_record,
)

PATIENCE = 60.0  # seconds
STATE = "/var/lib/xcp/state.db"


@pytest.fixture
def pool():
    pool = LabPool()
    yield pool
    pool.stop()


def network(x, name):
    return x.network.create({"name_label": name, "name_description": "", "other_config": {}})


def restarted(host, how=signal.SIGKILL):
    """End the host's xapi and start it; a session with it."""
    host.stop(how)
    host.start()
    host.wait_ready()
    return host.remote().xenapi


def test_a_kill_takes_back_what_was_not_synced(pool):
    x = pool.master.remote().xenapi
    kept, changed, gone = network(x, "kept"), network(x, "before"), network(x, "gone")
    x.network.add_to_other_config(kept, "k", "é\n<")
    assert x.pool.sync_database() == ""
    lost = network(x, "lost")
    x.network.set_name_label(changed, "after")
    x.network.remove_from_other_config(kept, "k")
    x.network.destroy(gone)
    x = restarted(pool.master)
    assert (
        x.network.get_other_config(kept) == {"k": "é\n<"}
        and x.network.get_name_label(changed) == "before"
    )
    assert gone in x.network.get_all() and lost not in x.network.get_all()


def test_an_end_by_sigterm_takes_back_nothing(pool):
    made = network(pool.master.remote().xenapi, "made")
    assert restarted(pool.master, signal.SIGTERM).network.get_name_label(made) == "made"


def test_it_is_written_when_its_time_has_come():
    pool = LabPool(database_flush_seconds=1)
    try:
        made = network(pool.master.remote().xenapi, "made")
        eventually(lambda: made in open(pool.master.root + STATE).read(), "it is written")
        assert restarted(pool.master).network.get_name_label(made) == "made"
    finally:
        pool.stop()


def test_a_call_is_on_disk_before_it_is_answered_only_where_that_is_asked_for():
    pool = LabPool(database_flush_seconds=0)
    try:
        made = network(pool.master.remote().xenapi, "made")
        assert made in open(pool.master.root + STATE).read()
    finally:
        pool.stop()


def test_what_is_never_on_disk_is_gone_after_any_restart(pool):
    session = pool.master.remote()
    x = session.xenapi
    sr = make_sr(x, pool.master.ref(x))
    vm, vdi = x.VM.create(vm_record()), x.VDI.create(vdi_record(sr))
    task = x.task.create("a task", "")
    metrics = x.VM.get_metrics(vm)
    x.VM_metrics.add_to_other_config(metrics, "k", "v")
    message = x.message.create("A_MESSAGE", 3, "VM", x.VM.get_uuid(vm), "body")
    x.pool.sync_database()
    later = x.message.create(
        "ANOTHER", 3, "VM", x.VM.get_uuid(vm), "messages are files of their own"
    )
    with open(pool.master.root + STATE) as file:
        state = json.load(file)["objects"]
    assert not {"task", "session", "message"} & set(state)
    assert (
        not {"allowed_operations", "current_operations"} & set(state["VM"][vm])
        and "other_config" not in state["VM_metrics"][metrics]
    )
    again = restarted(pool.master, signal.SIGTERM)
    former = session._session  # the stock client would log in again by itself
    assert xmlrpc.client.ServerProxy(pool.master.url).VM.get_all(former)["ErrorDescription"] == [
        "SESSION_INVALID",
        former,
    ]
    assert task not in again.task.get_all() and set(again.message.get_all_records()) == {
        message,
        later,
    }
    assert again.VM_metrics.get_other_config(metrics) == {}
    assert "start" in again.VM.get_allowed_operations(
        vm
    ) and "snapshot" in again.VDI.get_allowed_operations(vdi)
    assert "scan" in again.SR.get_allowed_operations(sr)


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_on_disk_is_what_a_real_xapi_has_there(name):
    with open(os.path.join(REPOSITORY, "docs/facts/xapi-datamodel.json")) as file:
        known = json.load(file)[name]
    for field in CLASSES[name].values():
        if field.name in known["fields"]:
            on_disk = known["persisted"] == "yes" and known["fields"][field.name][2] is True
            assert field.kept == on_disk, field.name


def test_a_sync_is_a_snapshot_and_durable(pool):
    """What the product takes for proof: the file is younger than the call."""
    x = pool.master.remote().xenapi
    x.VBD.create(vbd_record(x.VM.create(vm_record()), "OpaqueRef:NULL", type="CD", empty=True))
    before = os.stat(pool.master.root + STATE)
    x.pool.sync_database()
    after = os.stat(pool.master.root + STATE)
    assert (after.st_ino, after.st_mtime_ns) != (
        before.st_ino,
        before.st_mtime_ns,
    ) and after.st_mode & 0o777 == 0o600
    assert os.listdir(os.path.dirname(pool.master.root + STATE)).count("state.db.new") == 0


def test_a_sync_that_cannot_be_written_says_so(pool):
    x = pool.master.remote().xenapi
    os.mkdir(pool.master.root + STATE + ".new")
    try:
        assert failure_of(x.pool.sync_database)[0] == "INTERNAL_ERROR"
    finally:
        os.rmdir(pool.master.root + STATE + ".new")
    x.pool.sync_database()


class Call(threading.Thread):
    """A call that may be held up: `answer` or `failure` once it is answered."""

    def __init__(self, function):
        super().__init__(daemon=True)
        self._function = function
        self.answer = self.failure = None
        self.start()

    def run(self):
        try:
            self.answer = self._function()
        except Exception as failure:
            self.failure = failure


@pytest.fixture
def two():
    pool = LabPool(hosts=2, away_seconds=15)
    yield pool
    pool.stop()


def test_a_member_asks_its_master_and_gets_a_copy(two):
    master, member = two.hosts
    made = network(master.remote().xenapi, "made")
    member.local().xenapi.pool.sync_database()
    assert made in open(master.root + STATE).read() and made in open(member.root + STATE).read()


def test_a_hung_member_holds_a_sync_up_and_the_masters_file_is_there_at_once(two):
    master, member = two.hosts
    x = master.remote().xenapi
    made = network(x, "made")
    member.process.send_signal(signal.SIGSTOP)
    try:
        call = Call(x.pool.sync_database)
        eventually(lambda: made in open(master.root + STATE).read(), "it is written")
        # calls queue behind each other; others do not
        other = Call(master.remote().xenapi.pool.sync_database)
        network(master.remote().xenapi, "beside")
        other.join(0.5)
        assert call.is_alive() and other.is_alive()
    finally:
        member.process.send_signal(signal.SIGCONT)
    call.join(PATIENCE)
    other.join(PATIENCE)
    assert (call.answer, other.answer) == ("", "") and made in open(member.root + STATE).read()


def test_a_member_that_is_away_is_waited_for_and_then_named(two):
    master, member = two.hosts
    x = master.remote().xenapi
    made, ref = network(x, "made"), member.ref(x)
    member.stop(signal.SIGKILL)
    call = Call(x.pool.sync_database)
    eventually(lambda: made in open(master.root + STATE).read(), "it is written")
    assert call.is_alive()
    call.join(PATIENCE)
    assert call.failure.details == ["CANNOT_CONTACT_HOST", ref]
    call = Call(master.remote().xenapi.pool.sync_database)
    member.start()
    member.wait_ready()
    call.join(PATIENCE)
    assert call.answer == "" and made in open(member.root + STATE).read()


class Reading(daemon.Master):
    """A xapi that is long at reading its database."""

    read = threading.Event()

    def prepare(self):
        assert self.read.wait(PATIENCE)
        super().prepare()


def test_a_xapi_answers_before_it_has_read_its_database(pool, monkeypatch):
    """It knows no session then, and no host to log in at: who logs in again in the middle of a call
    must not take that for its answer."""
    host = pool.master
    monkeypatch.setenv("SXM_ROOT", host.root)
    session = sessions.local()
    vm = session.xenapi.VM.get_by_uuid(session.xenapi.VM.get_uuid(session.xenapi.VM.get_all()[0]))
    uuid = session.xenapi.VM.get_uuid(vm)
    host.stop()
    xapi = Reading(config.read(host.root))
    started = threading.Thread(target=xapi.start)
    started.start()
    try:
        eventually(lambda: os.path.exists(host.root + "/var/lib/xcp/xapi"), "it listens")
        assert failure_of(
            UnixSession(host.root).login_with_password, "root", "", "1.0", "tests"
        ) == ["UUID_INVALID", "host", host.uuid]
        with pytest.raises(Unreachable):
            sessions.local()
        with pytest.raises(Unreachable):
            xenops.Xenops.local(session, "label").at_once.power_state(uuid)
        answers = []
        asking = threading.Thread(target=lambda: answers.append(Records(session).ref("VM", uuid)))
        asking.start()
        asking.join(1.0)
        assert not answers
        Reading.read.set()
        asking.join(PATIENCE)
        assert answers == [vm]
    finally:
        Reading.read.set()
        started.join(PATIENCE)
        xapi.stop()
