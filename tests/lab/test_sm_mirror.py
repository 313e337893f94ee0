# SPDX-License-Identifier: LGPL-2.1-only
"""MirrorSR through xapi, sm, the tapdisk-pause plugin and tap-ctl, in both layouts of sm."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
import xmlrpc.client

import pytest

from sm_host import SIZE, host, io  # noqa: F401
from storage_motion.dom0 import tapctl
from storage_motion.errors import SmFault, TapCtlError
from storage_motion.sm import active, marks, smapi, standby
from tests.eventually import eventually, never

MIB = 1 << 20
# seconds: REFRESH_BOUND of storage_motion/sm/disks/mirrored.py, which only sm's Python can import
REFRESH = 2.0


@pytest.fixture
def disks(host):
    """A source that is active, with a MiB of 0xaa, and a destination: (source, its socket,
    destination)."""
    source, destination = host.create(host.fast, "source"), host.create(host.big, "destination")
    socket = host.activate(source)
    io(socket, "write -P 0xaa 0 1M")
    yield source, socket, destination
    for snapshot in host.xapi.VDI.get_snapshots(source):
        host.call(snapshot, "vdi_copy_close")
        host.xapi.VDI.destroy(snapshot)
    host.deactivate(source)
    host.call(destination, "vdi_receive_abort")
    for vdi in (source, destination):
        host.xapi.VDI.destroy(vdi)
    assert host.tapdisks() == []
    assert (
        host.images("fast") == host.images("big") == os.listdir(host.root + "/run/sxm/disks") == []
    )


def receive(host, vdi):
    return json.loads(host.call(vdi, "vdi_receive_start"))["socket"]


def copy_open(host, vdi):
    return json.loads(host.call(vdi, "vdi_copy_open"))["socket"]


def stat(host, vdi):
    return json.loads(host.call(vdi, "vdi_mirror_stat"))


def test_a_disk_moves(host, disks):
    source, socket, destination = disks
    assert stat(host, source) == {"state": "none", "outstanding": 0}
    assert host.call(source, "vdi_data_end") is None, "it is no VHD"
    answer = json.loads(host.call(destination, "vdi_receive_start"))
    assert answer["blank"] is True
    assert json.loads(host.call(destination, "vdi_receive_start")) == answer
    assert host.tags(destination) == {marks.PAUSED: marks.SHUT, marks.RELINKING: marks.SHUT}

    snapshot = host.xapi.VDI.get_by_uuid(host.call(source, "vdi_mirror_start", answer["socket"]))
    assert stat(host, source)["state"] == "mirroring"
    assert host.xapi.VDI.get_snapshots(source) == [snapshot]
    assert "sxm_mirror" not in host.xapi.VDI.get_other_config(source)
    io(socket, "write -P 0xbb 2M 64k")
    io(answer["socket"], "read -P 0 0 2M", "read -P 0xbb 2M 64k")

    frozen = copy_open(host, snapshot)
    assert copy_open(host, snapshot) == frozen
    io(frozen, "read -P 0xaa 0 1M", "read -P 0 1M 63M", readonly=True)
    assert json.loads(host.call(snapshot, "vdi_extents")) == {"size": SIZE, "extents": [[0, MIB]]}
    host.call(snapshot, "vdi_copy_close")
    host.call(snapshot, "vdi_copy_close")
    assert host.tags(snapshot) == {}

    host.call(source, "vdi_mirror_stop")
    assert stat(host, source)["state"] == "none"
    assert host.xapi.VDI.get_other_config(source) == {}
    io(socket, "write -P 0xcc 3M 64k")
    io(answer["socket"], "read -P 0 3M 64k")

    host.call(destination, "vdi_receive_finish")
    host.call(destination, "vdi_receive_finish")
    assert host.tags(destination) == {}
    activated = host.activate(destination)
    io(activated, "read -P 0xbb 2M 64k")
    host.call(destination, "vdi_receive_finish")  # repeated late: the tapdisk is the guest's now
    host.call(destination, "vdi_receive_abort")
    io(activated, "read -P 0xbb 2M 64k")
    with pytest.raises(SmFault) as raised:
        host.call(destination, "vdi_receive_start")
    assert raised.value.fault == 483
    host.deactivate(destination)


def standing_by(host, vdi):
    return standby.Standby(host.session, host.big, "vdi_receive_finish", vdi, [standby.WHEN_TOLD])


def closed_by_standby(host, vdi):
    """What stands by, with SM's lock, when it has closed the disk."""
    one = standing_by(host, vdi)
    one.close_disk()
    eventually(lambda: host.tapdisks()[1:] == [], "the tapdisk of ours is closed", 20)
    return one


def test_an_activation_that_comes_before_the_gate_is_open_need_not_look_again(host, disks):
    """It waits for SM's lock, which the command that stands by has."""
    _, _, destination = disks
    receive(host, destination)
    one = closed_by_standby(host, destination)
    assert host.tags(destination) == SHUT
    shut_before = shut_gates_met(host)
    waits = activation(host, destination, "true")
    eventually(lambda: waits_for_a_lock(waits.pid), "it waits for the lock", 20)
    one.open()
    waits.communicate(timeout=60)
    assert [key for key in host.tags(destination) if key.startswith(marks.HOST)]
    assert shut_gates_met(host) == shut_before
    host.deactivate(destination)


def test_an_activation_to_read_that_waits_for_the_gate_to_open_is_ended(host, disks):
    """A xapi that was restarted begins it, and the VM could not write then."""
    _, _, destination = disks
    receive(host, destination)
    one = closed_by_standby(host, destination)
    reader = activation(host, destination, "false")
    eventually(lambda: waits_for_a_lock(reader.pid), "it waits for the lock", 20)
    one.open()
    assert reader.wait(30) == -signal.SIGKILL and host.tags(destination) == {}
    reader.communicate()


def shut_gates_met(host):
    """How often an activation has found a gate shut, by SM's log."""
    with open(host.root + "/var/log/SMlog") as log:
        return log.read().count(" is paused: ")


def test_what_stands_by_opens_nothing_before_it_has_closed_the_disk(host, disks):
    _, _, destination = disks
    receive(host, destination)
    one = standing_by(host, destination)
    one._tell(standby.OPEN)
    with pytest.raises(SmFault) as raised:
        one.open()
    assert "SXM_NOT_FINISHED" in str(raised.value)
    assert host.tags(destination) == SHUT and len(host.tapdisks()) == 2
    other = standing_by(host, destination)
    other.open()  # it was told nothing before
    assert host.tags(destination) == {} and len(host.tapdisks()) == 1


def test_what_stands_by_asks_no_other_tapdisk_while_a_guest_waits(host, disks):
    """tap-ctl waits ten seconds for one that does not answer."""
    _, _, destination = disks
    receive(host, destination)
    one = standing_by(host, destination)
    eventually(lambda: waits_for_its_input(one._process.pid), "it waits for a word", 20)
    (ours,) = [
        vbd.pid for vbd in host.tapdisks() if host.xapi.VDI.get_uuid(destination) in vbd.args
    ]
    (other,) = [vbd.pid for vbd in host.tapdisks() if vbd.pid != ours]
    os.kill(other, signal.SIGSTOP)
    try:
        one.close_disk()
        eventually(lambda: not os.path.exists("/proc/%d" % ours), "its tapdisk has ended", 5)
        one.open()
    finally:
        os.kill(other, signal.SIGCONT)
    assert host.tags(destination) == {} and [vbd.pid for vbd in host.tapdisks()] == [other]


def test_what_stands_by_closes_a_disk_that_was_opened_anew(host, disks):
    _, _, destination = disks
    receive(host, destination)
    one = standing_by(host, destination)
    eventually(lambda: waits_for_its_input(one._process.pid), "it waits for a word", 20)
    host.call(destination, "vdi_receive_abort")
    receive(host, destination)
    assert len(host.tapdisks()) == 2
    one.open()
    assert host.tags(destination) == {} and len(host.tapdisks()) == 1


def waits_for_its_input(pid):
    """Whether a process is in select(2), which tells it of its standard input: by the number of
    the system call."""
    with open("/proc/%d/syscall" % pid) as syscall:
        return syscall.read().split()[0] in ("23", "270")  # select, pselect6 of x86-64


def waits_for_a_lock(pid):
    """Whether a process waits for a lock of a file, by its line in /proc/locks."""
    with open("/proc/locks") as locks:
        return any("->" in line and " %d " % pid in line for line in locks)


@pytest.mark.parametrize("moment", ["begun", "close", "closed"])
@pytest.mark.parametrize("how", ["its end", "kill -9"])
def test_what_stands_by_may_end_at_any_moment(host, disks, moment, how):
    """The gate is shut then, and opened by a command that begins now."""
    _, _, destination = disks
    receive(host, destination)
    one = standing_by(host, destination)
    if moment != "begun":
        one.close_disk()
    if moment == "closed":
        eventually(lambda: host.tapdisks()[1:] == [], "the tapdisk of ours is closed", 20)
    if how == "kill -9":
        one._process.kill()
    one.end()
    smapi.await_commands([host.xapi.VDI.get_uuid(destination)], 20.0)
    assert host.tags(destination) == SHUT
    host.call(destination, "vdi_receive_finish")
    assert host.tags(destination) == {}


@pytest.mark.parametrize("moment", ["begun", "closed"])
def test_what_stands_by_ends_the_session_of_a_receiver_that_was_killed(host, disks, moment):
    _, _, destination = disks
    receive(host, destination)
    session = host.pool.session()
    one = standby.Standby(session, host.big, "vdi_receive_finish", destination, [standby.WHEN_TOLD])
    if moment == "closed":
        one.close_disk()
        eventually(lambda: host.tapdisks()[1:] == [], "the tapdisk of ours is closed", 20)
    one._process.communicate(timeout=60)  # its input ends
    assert host.tags(destination) == SHUT
    with pytest.raises(Exception, match="SESSION_INVALID|HANDLE_INVALID"):
        host.xapi.session.get_uuid(session._session)


def test_no_gate_opens_behind_a_tapdisk_that_has_died(host, disks):
    """One of QCOW2 has tables of the image in its memory until it closes."""
    _, _, destination = disks
    io(receive(host, destination), "write -P 0x33 0 64k")
    (ours,) = [
        vbd.pid for vbd in host.tapdisks() if host.xapi.VDI.get_uuid(destination) in vbd.args
    ]
    os.kill(ours, signal.SIGKILL)
    eventually(lambda: not os.path.exists("/proc/%d" % ours), "its tapdisk has ended", 5)
    for _ in range(2):
        with pytest.raises(SmFault, match="SXM_NOT_FINISHED"):
            host.call(destination, "vdi_receive_finish")
        assert host.tags(destination) == SHUT
    host.call(destination, "vdi_receive_abort")
    for vbd in host.tapdisks():
        if vbd.pid is None:  # of the dead one
            tapctl._run(["free", "-m", vbd.minor], 30.0)
    io(receive(host, destination), "write -P 0x33 0 64k")
    host.call(destination, "vdi_receive_finish")
    assert host.tags(destination) == {}


def activation(host, vdi, writable):
    """SM's, by the SR's own driver, which waits at the gate."""
    argument = xmlrpc.client.dumps(
        (smapi._parameters(host.session, host.big, "vdi_activate", vdi, [writable], None),),
        "vdi_activate",
    )
    return subprocess.Popen(
        [host.root + "/opt/xensource/sm/FileSR", argument], stdout=subprocess.PIPE
    )


SHUT = {marks.PAUSED: marks.SHUT, marks.RELINKING: marks.SHUT}


def test_a_gate_that_an_older_database_has_shut_is_opened_again_and_the_guest_left_alone(
    host, disks
):
    """Where it does not know that the disk is active, either."""
    _, _, destination = disks
    receive(host, destination)
    host.call(destination, "vdi_receive_open_again")
    assert host.tags(destination) == SHUT, "one that was never opened"
    host.call(destination, "vdi_receive_finish")
    activated = host.activate(destination)
    active = host.tags(destination)
    host.xapi.VDI.set_sm_config(destination, SHUT)
    host.call(destination, "vdi_receive_finish")
    assert host.tags(destination) == {}
    io(activated, "write -P 0x77 4M 64k", "read -P 0x77 4M 64k")
    host.xapi.VDI.set_sm_config(destination, active)
    host.deactivate(destination)
    # Nobody waits, then one for a disk to read, as a xapi that was restarted has what it had begun
    # done once more, then the VM's.
    host.xapi.VDI.set_sm_config(destination, SHUT)
    host.call(destination, "vdi_receive_open_again")
    reader = activation(host, destination, "false")
    host.call(destination, "vdi_receive_open_again")
    assert host.tags(destination) == SHUT and reader.wait(30) == -signal.SIGKILL
    writer = activation(host, destination, "true")
    assert host.call(destination, "vdi_receive_open_again") == "opened"
    assert b"<nil/>" in writer.communicate(timeout=30)[0]
    assert host.tags(destination) == active
    host.deactivate(destination)
    # Of one that died at the tags, `activating` stays, and keeps SM from the disk for ever.
    host.xapi.VDI.add_to_sm_config(destination, "activating", "True")
    with pytest.raises(SmFault):
        host.activate(destination)
    assert host.call(destination, "vdi_receive_open_again") is None and host.tags(destination) == {}
    host.activate(destination)
    host.deactivate(destination)
    receive(host, destination)
    host.call(destination, "vdi_receive_open_again")
    assert host.tags(destination) == SHUT, "one that receives once more"


@pytest.mark.parametrize("mode", ["true", "false"])
def test_how_a_disk_is_active_is_seen_at_its_tapdisk(host, disks, mode):
    _, _, destination = disks
    place = host.xapi.SR.get_uuid(host.big), host.xapi.VDI.get_uuid(destination)
    assert not active.is_served(*place) and not active.is_read_only(*place)
    host.call(destination, "vdi_attach", mode, driver="FileSR")
    host.call(destination, "vdi_activate", mode, driver="FileSR")
    assert active.is_served(*place) and active.is_read_only(*place) is (mode == "false")
    host.deactivate(destination)
    assert not active.is_served(*place) and not active.is_read_only(*place)


def test_a_second_snapshot_differs_by_what_was_written(host, disks):
    source, socket, _ = disks
    first = host.xapi.VDI.get_uuid(host.xapi.VDI.snapshot(source, {}))
    io(socket, "write -P 0xdd 8M 64k")
    second = host.xapi.VDI.snapshot(source, {})
    differing = [[8 * MIB, 64 << 10]]
    assert json.loads(host.call(second, "vdi_extents", first))["extents"] == differing
    below = host.xapi.VDI.get_by_uuid(first)
    for vdi in (second, below):  # as a disk that is based on another one is copied
        copy_open(host, vdi)
    assert json.loads(host.call(second, "vdi_extents", first))["extents"] == differing
    assert json.loads(host.call(below, "vdi_extents", host.xapi.VDI.get_uuid(second))) == {
        "size": SIZE,
        "extents": differing,
    }
    for vdi in (second, below):
        host.call(vdi, "vdi_copy_close")
        assert host.tags(vdi) == {}


def test_activation_waits_for_the_gate(host, disks):
    _, _, destination = disks
    receive(host, destination)
    argument = xmlrpc.client.dumps(
        (smapi._parameters(host.session, host.big, "vdi_activate", destination, ["true"], None),),
        "vdi_activate",
    )
    waiting = subprocess.Popen(
        [host.root + "/opt/xensource/sm/FileSR", argument], stdout=subprocess.PIPE
    )
    never(
        lambda: waiting.poll() is not None or host.tags(destination) != SHUT,
        "it does not wait for the gate",
        2,
    )
    host.call(destination, "vdi_receive_finish")
    assert b"<nil/>" in waiting.communicate(timeout=30)[0]
    assert host.tags(destination) == {"host_" + host.ref: "RW"}
    host.deactivate(destination)


def test_a_mirror_that_does_not_attach_is_undone(host, disks):
    source, socket, _ = disks
    with pytest.raises(SmFault) as raised:
        host.call(source, "vdi_mirror_start", host.root + "/run/nobody-listens")
    assert raised.value.fault == 482
    assert host.xapi.VDI.get_snapshots(source) == []
    assert host.xapi.VDI.get_other_config(source) == {}
    assert stat(host, source)["state"] == "none"
    io(socket, "write -P 0xee 4M 64k", "read -P 0xaa 0 1M")


def test_a_mirror_whose_target_dies_is_broken_and_the_guest_goes_on(host, disks):
    source, socket, destination = disks
    target = receive(host, destination)
    host.call(source, "vdi_mirror_start", target)
    (vbd,) = [vbd for vbd in host.tapdisks() if tapctl.nbd_socket(vbd) == target]
    os.kill(vbd.pid, signal.SIGKILL)
    io(socket, "write -P 0xee 4M 64k")
    assert stat(host, source)["state"] == "broken"
    host.call(source, "vdi_mirror_stop")
    assert stat(host, source)["state"] == "none"
    tapctl._run(["free", "-m", vbd.minor], 10)
    assert receive(host, destination) != target  # and it can be received into again


def test_the_wrong_disks_are_refused(host, disks):
    source, _, destination = disks
    with pytest.raises(SmFault) as raised:
        host.call(destination, "vdi_mirror_start", "/x")
    assert raised.value.fault == 480
    with pytest.raises(SmFault) as raised:
        host.call(source, "vdi_receive_start")
    assert raised.value.fault == 483
    with pytest.raises(SmFault) as raised:
        host.call(source, "vdi_copy_open")
    assert raised.value.fault == 483
    host.xapi.VDI.add_to_sm_config(destination, "paused", "true")  # by sm, say
    for command in ("vdi_receive_start", "vdi_receive_finish", "vdi_receive_abort"):
        with pytest.raises(SmFault) as raised:
            host.call(destination, command)
        assert raised.value.fault == 484
    host.xapi.VDI.remove_from_sm_config(destination, "paused")
    with pytest.raises(SmFault) as raised:
        host.call(source, "vdi_mirror_start")
    assert raised.value.fault == 143


def test_a_disk_that_a_guest_has_read_only_is_read_through_its_tapdisk(host, disks):
    source, _, destination = disks
    with pytest.raises(SmFault) as raised:
        host.call(source, "vdi_copy_open", "beside-reader")
    assert raised.value.fault == 480, "it is open to be written to"
    with pytest.raises(SmFault) as raised:
        host.call(destination, "vdi_copy_open", "beside-reader")
    assert raised.value.fault == 480, "it is open to nobody"
    assert host.tags(destination) == {}
    host.deactivate(source)
    socket = host.activate(source, "false")
    before, tags = host.tapdisks(), host.tags(source)
    opened = json.loads(host.call(source, "vdi_copy_open", "beside-reader"))["socket"]
    io(opened, "read -P 0xaa 0 1M", readonly=True)
    extents = json.loads(host.call(source, "vdi_extents"))
    assert extents["size"] == SIZE and extents["extents"][0][0] == 0
    assert extents["extents"][0][1] >= MIB
    host.call(source, "vdi_copy_close")
    assert (host.tapdisks(), host.tags(source)) == (before, tags)
    io(socket, "read -P 0xaa 0 1M", readonly=True)


def test_the_gate_of_a_disk_that_the_vm_has_read_only_lets_a_reader_in(host, disks):
    _, _, destination = disks
    receive(host, destination)
    host.call(destination, "vdi_attach", "false", driver="FileSR")
    reader = activation(host, destination, "false")
    host.call(destination, "vdi_receive_finish", "read-only")
    assert reader.wait(30) == 0, "it was let in, and not ended"
    reader.communicate()
    assert list(host.tags(destination).values()) == ["RO"]
    host.deactivate(destination)


@pytest.mark.parametrize("linked", [True, False], ids=["active", "activation died before its link"])
def test_a_disk_that_was_left_active_is_let_go(host, disks, linked):
    _, _, destination = disks
    socket = host.activate(destination)
    io(socket, "write -P 0x55 0 64k")
    if not linked:
        os.unlink(
            "%s/run/blktap-control/nbd/%s/%s"
            % (host.root, host.xapi.SR.get_uuid(host.big), host.xapi.VDI.get_uuid(destination))
        )
    before = len(host.tapdisks())
    host.call(destination, "vdi_let_go")
    assert len(host.tapdisks()) == before - 1 and host.tags(destination) == {}
    host.call(destination, "vdi_let_go")
    io(host.activate(destination), "read -P 0x55 0 64k")
    host.deactivate(destination)


@pytest.mark.parametrize("by_sm", [True, False], ids=["sm goes on", "sm was killed"])
def test_a_tapdisk_that_sm_has_paused_is_left_to_sm_for_a_moment(host, disks, by_sm):
    source, socket, destination = disks
    target = receive(host, destination)
    host.call(source, "vdi_mirror_start", target)
    (vbd,) = [vbd for vbd in host.tapdisks() if host.xapi.VDI.get_uuid(source) in (vbd.args or "")]
    with tapctl.poked(vbd.pid):
        tapctl.pause(vbd)
    began = time.monotonic()
    stopping = threading.Thread(target=host.call, args=(source, "vdi_mirror_stop"))
    stopping.start()
    if by_sm:
        stopping.join(REFRESH / 2)
        try:
            tapctl.unpause(vbd, secondary="nbd:" + target)
        except TapCtlError:
            assert time.monotonic() - began > REFRESH  # else the product did not wait
    stopping.join(300)
    assert not stopping.is_alive()
    assert by_sm or time.monotonic() - began > REFRESH
    assert stat(host, source)["state"] == "none"
    io(socket, "write -P 0x44 3M 64k", "read -P 0xaa 0 1M")


def leave_paused(host, vdi, paused):
    """As sm's vdi_snapshot does whose xapi has ended: its mark, and maybe the tapdisk paused."""
    host.xapi.VDI.add_to_sm_config(vdi, "paused", "true")
    (vbd,) = [vbd for vbd in host.tapdisks() if host.xapi.VDI.get_uuid(vdi) in (vbd.args or "")]
    if paused:
        with tapctl.poked(vbd.pid):
            tapctl.pause(vbd)
    return vbd


@pytest.mark.parametrize("paused", [False, True], ids=["goes on", "stands still"])
def test_what_sm_has_left_of_a_pause_is_put_right(host, disks, paused):
    source, socket, destination = disks
    host.call(source, "vdi_mirror_start", receive(host, destination))
    leave_paused(host, source, paused)
    host.call(source, "vdi_mirror_stop")
    assert "paused" not in host.tags(source) and stat(host, source)["state"] == "none"
    io(socket, "write -P 0x44 3M 64k", "read -P 0xaa 0 1M")


@contextlib.contextmanager
def locked_by_somebody(host, name, namespace):
    """One of sm's locks, held by another process."""
    path = "%s/var/lock/sm/%s/%s" % (host.root, namespace, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def somebody_is_at_it(host, vdi, program):
    """A process of sm that is about a VDI."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time; time.sleep(600)",
            host.root + program,
            "<%s>" % host.xapi.VDI.get_uuid(vdi),
        ]
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def in_sm_config(host, vdi, key, value):
    host.xapi.VDI.remove_from_sm_config(vdi, key)
    host.xapi.VDI.add_to_sm_config(vdi, key, value)
    yield
    host.xapi.VDI.remove_from_sm_config(vdi, key)


@contextlib.contextmanager
def half_done_by_the_collector(host, vdi):
    path = "%s/run/sr-mount/%s/leaf_%s" % (
        host.root,
        host.xapi.SR.get_uuid(host.fast),
        host.xapi.VDI.get_uuid(vdi),
    )
    with open(path, "w"):
        pass
    yield
    os.unlink(path)


@pytest.mark.parametrize(
    "paused, why",
    [
        (True, lambda host, vdi: locked_by_somebody(host, "sr", host.xapi.SR.get_uuid(host.fast))),
        (True, lambda host, vdi: somebody_is_at_it(host, vdi, "/opt/xensource/sm/FileSR")),
        (
            False,
            lambda host, vdi: somebody_is_at_it(host, vdi, "/etc/xapi.d/plugins/tapdisk-pause"),
        ),
        (False, lambda host, vdi: in_sm_config(host, vdi, "paused", "somebody's pause")),
        (True, lambda host, vdi: in_sm_config(host, vdi, "host_OpaqueRef:other", "RW")),
        (True, half_done_by_the_collector),
    ],
    ids=[
        "the SR is locked",
        "a driver is at it",
        "a pause is",
        "another's mark",
        "active elsewhere",
        "images half done",
    ],
)
def test_a_pause_that_may_be_somebodys_is_left_to_him(host, disks, paused, why):
    source, socket, destination = disks
    host.call(source, "vdi_mirror_start", receive(host, destination))
    vbd = leave_paused(host, source, paused)
    with why(host, source):
        stopping = threading.Thread(target=host.call, args=(source, "vdi_mirror_stop"))
        stopping.start()
        stopping.join(2 * REFRESH)
        assert stopping.is_alive() and "paused" in host.tags(source)
        (now,) = tapctl.list(pid=vbd.pid)
        assert bool(now.state & tapctl.PAUSED) is paused
    stopping.join(60)
    assert "paused" not in host.tags(source) and stat(host, source)["state"] == "none"
    io(socket, "write -P 0x44 3M 64k", "read -P 0xaa 0 1M")


def test_a_snapshot_that_fails_ends_nobody_elses_pause(host, disks):
    """As sm's own for its collector, which xapi lets in as soon as ours has failed."""
    source, socket, destination = disks
    target, session, ended = receive(host, destination), host.pool.session(), []
    starting = threading.Thread(
        target=lambda: ended.append(
            fault_of(session, host.fast, source, "vdi_mirror_start", target)
        )
    )
    with somebody_is_at_it(host, source, "/opt/xensource/sm/FileSR"):
        with locked_by_somebody(host, "sr", host.xapi.SR.get_uuid(host.fast)):
            starting.start()
            operations = host.xapi.VDI.get_current_operations
            eventually(lambda: operations(source), "xapi is at the disk")
            vbd = leave_paused(host, source, True)
        # sm cannot pause what is paused
        eventually(lambda: not operations(source), "xapi has done with the disk")
        starting.join(2 * REFRESH)
        assert starting.is_alive() and host.tags(source)["paused"] == "true"
        assert tapctl.list(pid=vbd.pid)[0].state & tapctl.PAUSED
    starting.join(60)
    assert ended and ended[0], "and it says that it has failed"
    assert "paused" not in host.tags(source) and host.xapi.VDI.get_snapshots(source) == []
    host.call(source, "vdi_mirror_start", target)
    io(socket, "write -P 0x44 3M 64k", "read -P 0xaa 0 1M")


def fault_of(session, sr, vdi, command, argument):
    try:
        smapi.call(session, sr, command, vdi_ref=vdi, args=(argument,))
    except SmFault as fault:
        return fault


def test_a_command_whose_session_has_ended_with_its_xapi_says_so(host, disks):
    source, _, _ = disks
    session = types.SimpleNamespace(xenapi=host.xapi, _session="OpaqueRef:of-a-former-xapi")
    for command in ("vdi_mirror_stat", "vdi_mirror_stop", "vdi_extents"):
        with pytest.raises(SmFault) as raised:
            smapi.call(session, host.fast, command, vdi_ref=source)
        assert raised.value.fault == smapi.AWAY


def lost(host, vdi, since):
    return json.loads(host.call(vdi, "vdi_lost_snapshots", repr(since)))


def forgotten(host, snapshot):
    """As after a crash of xapi: the image is there, and no VDI."""
    host.xapi.VDI.forget(snapshot)


def found_by_a_scan(host, snapshot):
    host.xapi.VDI.forget(snapshot)
    host.xapi.SR.scan(host.fast)


def unfinished(host, snapshot):
    """As xapi's storage layer leaves it: named, and nothing of what comes last."""
    host.xapi.VDI.set_other_config(snapshot, {"content_id": "x"})
    with host.session_of_a_driver(host.fast):
        host.xapi.VDI.set_snapshot_of(snapshot, "OpaqueRef:NULL")


def known(host, snapshot):
    pass


@pytest.mark.parametrize(
    "become, since, kind",
    [
        (forgotten, 0, "nameless"),
        (found_by_a_scan, 0, "nameless"),
        (unfinished, 0, "unfinished"),
        (forgotten, 3600, None),
        (known, 0, None),
    ],
    ids=["forgotten", "found by a scan", "unfinished", "older", "known"],
)
def test_a_snapshot_that_xapi_has_not_noted_as_such_is_found(host, disks, become, since, kind):
    source, socket, _ = disks
    began = time.time() + since
    snapshot = host.xapi.VDI.snapshot(source, {})
    uuid = host.xapi.VDI.get_uuid(snapshot)
    become(host, snapshot)
    io(socket, "write -P 0xbb 2M 64k")
    later = host.xapi.VDI.snapshot(source, {})  # which puts an image between the two
    assert lost(host, source, began) == {
        name: [uuid] if name == kind else [] for name in ("nameless", "unfinished")
    }
    host.xapi.SR.scan(host.fast)
    for vdi in (host.xapi.VDI.get_by_uuid(uuid), later):
        host.xapi.VDI.destroy(vdi)
    assert lost(host, source, began) == {"nameless": [], "unfinished": []}


def test_one_that_somebody_has_written_to_is_his(host, disks):
    source, _, _ = disks
    began = time.time()
    clone = host.xapi.VDI.clone(source, {})
    uuid = host.xapi.VDI.get_uuid(clone)
    found_by_a_scan(host, clone)
    clone = host.xapi.VDI.get_by_uuid(uuid)
    assert lost(host, source, began)["nameless"] == [uuid]
    io(host.activate(clone), "write -P 0x66 0 64k")
    assert lost(host, source, began)["nameless"] == [], "it is in use"
    host.deactivate(clone)
    assert lost(host, source, began)["nameless"] == [], "it has been written to"
    host.xapi.VDI.destroy(clone)


def killed(host, vdi, command, delay, *args):
    """Run MirrorSR and kill it -9 after `delay` seconds."""
    argument = xmlrpc.client.dumps(
        (smapi._parameters(host.session, host.xapi.VDI.get_SR(vdi), command, vdi, args, None),),
        command,
    )
    process = subprocess.Popen(
        [host.root + "/opt/xensource/sm/MirrorSR", argument], stdout=subprocess.DEVNULL
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay)
    process.kill()
    process.wait()


@pytest.mark.parametrize("delay", [0.25, 0.35, 0.5, 0.8, 1.2, 1.8])
def test_mirror_start_can_be_killed_and_repeated(host, disks, delay):
    source, socket, destination = disks
    target = receive(host, destination)
    killed(host, source, "vdi_mirror_start", delay, target)
    io(socket, "write -P 0x11 5M 64k")
    snapshot = host.call(source, "vdi_mirror_start", target)
    assert stat(host, source)["state"] == "mirroring"
    assert [host.xapi.VDI.get_uuid(ref) for ref in host.xapi.VDI.get_snapshots(source)] == [
        snapshot
    ]
    io(socket, "write -P 0x22 6M 64k", "read -P 0xaa 0 1M", "read -P 0x11 5M 64k")
    io(target, "read -P 0x22 6M 64k")


def test_what_a_killed_command_has_begun_to_open_is_waited_for(host, disks):
    """The real tap-ctl goes on as well, and nothing keeps two real tapdisks from one image."""
    _, _, destination = disks
    image = "%s/run/sr-mount/%s/%s.qcow2" % (
        host.root,
        host.xapi.SR.get_uuid(host.big),
        host.xapi.VDI.get_uuid(destination),
    )
    left = subprocess.Popen(
        [host.root + tapctl.PROGRAM, "create", "-a", "qcow2:" + image], stdout=subprocess.DEVNULL
    )
    left.send_signal(signal.SIGSTOP)
    config = host.pool.session().xenapi.VDI.get_sm_config  # a thread has the other session
    receiving = threading.Thread(target=receive, args=(host, destination))
    receiving.start()
    try:
        eventually(lambda: marks.RELINKING in config(destination), "it has shut the gate")
        never(lambda: tapctl.find(image), "a second tapdisk", 2.0)
    finally:
        left.send_signal(signal.SIGCONT)
    receiving.join(60)
    assert not receiving.is_alive() and left.wait(60) == 0
    assert len(tapctl.find(image)) == 1


def test_what_is_destroyed_while_it_is_copied_is_closed_all_the_same(host, disks):
    """xapi refuses that only of what a VM has."""
    source, _, _ = disks
    snapshot = host.xapi.VDI.snapshot(source, {})
    uuid = host.xapi.VDI.get_uuid(snapshot)
    frozen = copy_open(host, snapshot)
    before = len(host.tapdisks())
    host.xapi.VDI.destroy(snapshot)
    io(frozen, "read -P 0xaa 0 1M", readonly=True)
    for _ in range(2):
        smapi.call(host.session, host.fast, "sr_copy_close", args=(uuid,))
    assert len(host.tapdisks()) == before - 1
    left = [name for _, _, names in os.walk(host.root + "/run") for name in names if uuid in name]
    left += [name for _, _, names in os.walk(host.root + "/dev") for name in names if uuid in name]
    assert left == [] and os.listdir(host.root + "/run/sxm/disks") == []


@pytest.mark.parametrize("delay", [0.25, 0.3, 0.4, 0.5])
def test_receive_and_copy_can_be_killed_and_repeated(host, disks, delay):
    source, _, destination = disks
    killed(host, destination, "vdi_receive_start", delay)
    target = receive(host, destination)
    io(target, "write -P 0x33 0 64k")
    killed(host, destination, "vdi_receive_finish", delay)
    host.call(destination, "vdi_receive_finish")
    assert host.tags(destination) == {}
    snapshot = host.xapi.VDI.snapshot(source, {})
    killed(host, snapshot, "vdi_copy_open", delay)
    io(copy_open(host, snapshot), "read -P 0xaa 0 1M", readonly=True)
    killed(host, snapshot, "vdi_copy_close", delay)
    host.call(snapshot, "vdi_copy_close")
    assert host.tags(snapshot) == {}
    assert [vbd.args for vbd in host.tapdisks() if vbd.state == 0] == [
        "qcow2:%s/run/sr-mount/%s/%s.qcow2"
        % (host.root, host.xapi.SR.get_uuid(host.fast), host.xapi.VDI.get_uuid(source))
    ]
