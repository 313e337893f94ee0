# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's tap-ctl answers as the real one (docs/facts/tapdisk-and-sm.md, section 2): rows,
states, exit codes, files."""

import json
import os
import shutil
import signal
import socket
import stat
import threading

import pytest

import blktap_lab as lab
from blktap_lab import root  # noqa: F401
from lab.blktap import install, qmp, records
from storage_motion.dom0 import tapctl


@pytest.fixture
def ctl(root):
    def run(*arguments, **environment):
        return lab.tap_ctl(root, *arguments, **environment)

    return run


def failed(answer, code):
    return answer[0] == code and answer[2].endswith(os.strerror(code) + "\n")


def test_manual_steps_and_their_rows(root, ctl):
    args = lab.image(root + "/a b.qcow2")
    assert ctl("list") == (0, "", "")
    assert ctl("allocate") == (0, root + "/run/blktap-control/tapdisk/tapdisk-0\n", "")
    assert ctl("list")[1] == "minor=0\n"
    pid = ctl("spawn")[1].strip()
    assert ctl("list")[1] == "pid=%s\nminor=0\n" % pid
    assert ctl("attach", "-p", pid, "-m", 0) == (0, "", "")
    assert ctl("list")[1] == "pid=%s minor=0 state=0\n" % pid
    assert failed(ctl("attach", "-p", pid, "-m", 0), 22)
    assert ctl("stats", "-p", pid, "-m", 0)[1].startswith(
        '{ "name": "(null)", "secs": [ 0, 0 ], "images": [  ]'
    )
    assert failed(ctl("free", "-m", 0), 11)
    assert ctl("open", "-p", pid, "-m", 0, "-a", args) == (0, "", "")
    assert ctl("list")[1] == "pid=%s minor=0 state=0 args=%s\n" % (pid, args)
    assert failed(ctl("open", "-p", pid, "-m", 0, "-a", args), 114)
    code, out, err = ctl("detach", "-p", pid, "-m", 0)
    assert (code, out, err) == (
        22,
        "got unexpected result 'error' from %s\n" % pid,
        "Invalid argument\n",
    )
    assert ctl("close", "-p", pid, "-m", 0) == (0, "", "")
    assert ctl("list")[1] == "pid=%s minor=0 state=0x2\n" % pid
    assert ctl("detach", "-p", pid, "-m", 0) == (0, "", "")
    assert records.start_time(int(pid)) is None
    assert ctl("list")[1] == "minor=0\n"
    assert ctl("free", "-m", 0) == (0, "", "")
    assert failed(ctl("free", "-m", 0), 2)


def test_create_pause_unpause_destroy(root, ctl):
    args = lab.image(root + "/a.qcow2")
    assert ctl("create", "-a", args) == (0, root + "/run/blktap-control/tapdisk/tapdisk-0\n", "")
    (vbd,) = tapctl.list()
    of = ("-p", vbd.pid, "-m", 0)
    assert failed(ctl("unpause", *of), 22)
    assert ctl("pause", *of)[0] == 0
    assert lab.state(vbd) == 0x2A
    assert tapctl.stats(vbd)["images"] == []
    assert '"images": [  ], "FIXME' in ctl("stats", *of)[1]
    assert ctl("pause", *of)[0] == 0
    assert ctl("unpause", *of)[0] == 0
    assert lab.state(vbd) == 0
    assert failed(ctl("pause", "-p", vbd.pid, "-m", 7), 19)
    assert failed(ctl("unpause", "-p", vbd.pid, "-m", 7), 19)
    assert ctl("stats", "-p", vbd.pid, "-m", 7) == (0, "\n\n", "")
    code, out, err = ctl("pause", "-t", 5, *of)
    assert (
        (code, out) == (22, "")
        and err.startswith("usage: pause")
        and err.endswith("Invalid argument\n")
    )
    ctl("pause", *of)
    assert ctl("destroy", *of) == (0, "", "")
    assert ctl("list") == (0, "", "")
    left = [name for _, _, names in os.walk(root + "/run") for name in names]
    assert left == []


def test_stats_are_in_tapdisks_spelling(root, ctl):
    base, leaf = root + "/base.qcow2", root + "/leaf.qcow2"
    lab.image(base)
    vbd = tapctl.create(lab.image(leaf, parent="base.qcow2"))
    code, out, _ = ctl("stats", "-p", vbd.pid, "-m", vbd.minor)

    def shown(name):
        return (
            '{ "name": "%s", "hits": [ 0, 0 ], "fail": [ 0, 0 ], "driver": { "type": 6, "name": "qcow2", "status": null } }'  # noqa: E501
            % name
        )

    assert (code, out) == (
        0,
        (
            '{ "name": "qcow2:%s", "secs": [ 0, 0 ], "images": [ %s, %s ], "FIXME_enospc_redirect_count": 0, "nbd_mirror_failed": 0, '  # noqa: E501
            '"reqs_outstanding": 0, "read_caching": "false" }\n\n'
        )
        % (leaf, shown(leaf), shown(base)),
    )
    json.loads(out)


@pytest.mark.parametrize(
    "command", ["attach", "detach", "close", "pause", "unpause", "stats", "destroy"]
)
def test_a_pid_that_is_none(ctl, command):
    assert failed(ctl(command, "-p", 4194300, "-m", 0), 2)
    assert ctl("list", "-p", 4194300) == (0, "", "")


def test_a_killed_tapdisk_leaves_its_sockets_and_is_recovered(root, ctl):
    args = lab.image(root + "/a.qcow2")
    vbd = tapctl.create(args)
    writer = lab.Writer(tapctl.nbd_socket(vbd))
    writer.wait_for_writes(200)
    os.kill(vbd.pid, signal.SIGKILL)
    writer.stop()
    assert ctl("list")[1] == "minor=0\n"
    assert os.path.exists(tapctl.nbd_socket(vbd)) and os.path.exists(
        root + "/run/blktap-control/ctl%d" % vbd.pid
    )
    assert failed(ctl("pause", "-p", vbd.pid, "-m", 0), 111)
    assert failed(ctl("stats", "-p", vbd.pid, "-m", 0), 111)
    assert ctl("list", "-p", vbd.pid) == (0, "", "")
    assert ctl("free", "-m", 0)[0] == 0
    again = tapctl.create(args)
    assert again.minor == 0
    assert writer.missing(tapctl.nbd_socket(again)) == 0


@pytest.mark.parametrize(
    "args, code",
    [("qcow2:/nowhere", 2), ("aio:/nowhere", 2), ("what:/nowhere", 2), ("nocolon", 22)],
)
def test_create_of_what_is_not_there(ctl, args, code):
    assert failed(ctl("create", "-a", args), code)
    assert ctl("list")[1] == ""


def test_create_of_what_is_no_image(root, ctl):
    with open(root + "/junk", "w") as junk:
        junk.write("junk" * 1000)
    assert failed(ctl("create", "-a", "qcow2:%s/junk" % root), 22)
    assert install.stop_all(root) == []


@pytest.mark.parametrize(
    "options",
    [
        ("-a", "vhd:/x"),
        ("-a", "qcow2:/x", "-e", "1"),
        ("-a", "qcow2:/x", "-s"),
        ("-a", "qcow2:/x", "-t", "3"),
    ],
)
def test_what_is_not_imitated_is_refused_loudly(ctl, options):
    code, out, err = ctl("create", *options)
    assert code == 95 and out == "" and "not imitated" in err


def test_unknown_commands_and_options(ctl):
    assert ctl("info")[:2] == ctl()[:2] and ctl("info")[0] == 0
    assert "COMMAND := { list | allocate | free |" in ctl()[1]
    assert ctl("list", "-x")[0] == 22
    assert ctl("pause", "-p", 1)[0] == 22
    assert ctl("create", "-h")[0] == 0


def test_an_unpause_onto_a_missing_file_takes_ten_seconds_and_can_be_repaired(root, ctl):
    leaf = root + "/a.qcow2"
    vbd = tapctl.create(lab.image(leaf))
    writer = lab.Writer(tapctl.nbd_socket(vbd))
    writer.wait_for_writes()
    with tapctl.poked(vbd.pid):
        tapctl.pause(vbd)
    assert failed(ctl("unpause", "-p", vbd.pid, "-m", 0, "-a", "qcow2:%s/nowhere" % root), 2)
    assert lab.state(vbd) == 0x22A
    assert ctl("unpause", "-p", vbd.pid, "-m", 0, "-a", "qcow2:" + leaf)[0] == 0
    assert lab.state(vbd) == 0
    writer.wait_for_writes()
    writer.finish()
    assert writer.stall > 8
    assert writer.missing(tapctl.nbd_socket(vbd)) == 0


def test_an_unpause_onto_another_size_is_refused(root, ctl):
    args = lab.image(root + "/a.qcow2")
    vbd = tapctl.create(args)
    other = lab.image(root + "/b.qcow2", size=8 * lab.MIB)
    ctl("pause", "-p", vbd.pid, "-m", 0)
    assert failed(ctl("unpause", "-p", vbd.pid, "-m", 0, "-a", other), 124)
    assert (lab.state(vbd), tapctl.list()[0].args) == (0x22A, other)
    assert ctl("unpause", "-p", vbd.pid, "-m", 0, "-a", args)[0] == 0


def test_nothing_is_locked(root):
    """The same file twice for writing, the base of a chain for reading; and qemu-img may look at
    all of them."""
    base, leaf = root + "/base.qcow2", root + "/leaf.qcow2"
    lab.image(base)
    args = lab.image(leaf, parent=base)
    vbds = [tapctl.create(args), tapctl.create(args), tapctl.create("qcow2:" + base, readonly=True)]
    assert len({vbd.pid for vbd in vbds}) == 3 and [vbd.minor for vbd in vbds] == [0, 1, 2]
    assert '"virtual-size"' in lab.qemu_img("info", "--output=json", leaf)
    for vbd in vbds:
        tapctl.pause(vbd)
        tapctl.unpause(vbd)
    assert tapctl.find(base) == [vbds[2]]


def test_raw_images(root):
    path = root + "/disk.raw"
    lab.qemu_img("create", "-q", "-f", "raw", path, "16M")
    vbd = tapctl.create("aio:" + path)
    writer = lab.Writer(tapctl.nbd_socket(vbd))
    writer.wait_for_writes()
    with tapctl.poked(vbd.pid):
        tapctl.pause(vbd)
        tapctl.unpause(vbd)
    writer.finish()
    assert writer.missing(tapctl.nbd_socket(vbd)) == 0
    assert tapctl.stats(vbd)["images"][0]["driver"]["name"] == "aio"


def test_the_control_directory_is_private(root, ctl):
    ctl("allocate")
    assert stat.S_IMODE(os.stat(root + "/run/blktap-control").st_mode) == 0o700


def test_a_monitor_that_tells_of_an_event_before_it_greets(tmp_path):
    event = {"event": "JOB_STATUS_CHANGE", "data": {"id": "job", "status": "concluded"}}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "ctl"))
        listener.listen(1)

        def serve():
            with listener.accept()[0] as daemon:
                for message in (event, {"QMP": {}}):
                    daemon.sendall(json.dumps(message).encode() + b"\n")
                assert json.loads(daemon.makefile().readline()) == {"execute": "qmp_capabilities"}
                daemon.sendall(b'{"return": {}}\n')

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with qmp.Monitor(str(tmp_path / "ctl"), 20.0) as monitor:
            monitor.wait_for_event("JOB_STATUS_CHANGE", "job")
        thread.join(20.0)
    assert not thread.is_alive()


def test_a_daemon_that_does_not_answer_is_replaced(root, tmp_path):
    """QEMU's does so now and then; a real tapdisk does not."""
    first = tmp_path / "first"
    first.touch()
    program = tmp_path / "qemu-storage-daemon"
    program.write_text(
        '#!/bin/sh\nrm %s 2>/dev/null && exec sleep 60\nexec %s "$@"\n'
        % (first, shutil.which("qemu-storage-daemon"))
    )
    program.chmod(0o755)
    path = "%s:%s" % (tmp_path, os.environ["PATH"])
    code, _, said = lab.tap_ctl(root, "create", "-a", lab.image(root + "/d.qcow2"), PATH=path)
    assert (code, said) == (0, "") and not first.exists()
    (vbd,) = tapctl.list()
    tapctl.destroy(vbd)
