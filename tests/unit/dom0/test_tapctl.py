# SPDX-License-Identifier: LGPL-2.1-only
"""tapctl against a fake tap-ctl that answers from a script: what is printed, what is parsed, what
fails."""

import errno
import os
import subprocess
import time

import pytest

from storage_motion.dom0 import launch, tapctl
from storage_motion.errors import TapCtlError
from tests.eventually import never


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """fake(body): make a tap-ctl that logs its arguments and runs the shell script `body`.
    fake.calls(): what it was asked."""
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    program = tmp_path / "usr" / "sbin" / "tap-ctl"
    program.parent.mkdir(parents=True)
    log = tmp_path / "calls"

    def make(body):
        program.write_text('#!/bin/sh\necho "$*" >> %s\n%s\n' % (log, body))
        os.chmod(str(program), 0o755)

    make.calls = lambda: log.read_text().splitlines() if log.exists() else []
    return make


VBD = tapctl.Vbd(17405, 0, 0, "vhd:/p/a.vhd")


def test_list_parses_every_shape_of_row(fake):
    fake("""cat <<'END'
pid=17405 minor=0 state=0 args=vhd:/p/a.vhd
pid=3077
minor=4
pid=5 minor=1 state=0
pid=6 minor=2 state=0x2
pid=7 minor=3 state=0x22a args=aio:/p/with space = and args=.raw
END""")
    assert tapctl.list() == [
        tapctl.Vbd(17405, 0, 0, "vhd:/p/a.vhd"),
        tapctl.Vbd(3077, None, None, None),
        tapctl.Vbd(None, 4, None, None),
        tapctl.Vbd(5, 1, 0, None),
        tapctl.Vbd(6, 2, 2, None),
        tapctl.Vbd(7, 3, 0x22A, "aio:/p/with space = and args=.raw"),
    ]
    assert fake.calls() == ["list"]


def test_list_asks_for_a_pid_and_a_minor(fake):
    fake("true")
    assert tapctl.list(pid=3, minor=0) == []
    assert fake.calls() == ["list -p 3 -m 0"]


def test_list_of_an_unparsable_row_fails(fake):
    fake("echo pid=x minor=0")
    with pytest.raises(TapCtlError) as caught:
        tapctl.list()
    assert caught.value.errno == errno.EPROTO


def test_find_compares_the_whole_path(fake):
    fake(
        "printf 'pid=1 minor=0 state=0 args=vhd:/p/a\\npid=2 minor=1 state=0 "
        "args=vhd:/p/ab\\npid=3 minor=2 state=0\\n'"
    )
    assert [vbd.pid for vbd in tapctl.find("/p/a")] == [1]


def test_stats(fake):
    fake(
        """echo '{ "name": "vhd:/p/a.vhd", "secs": [ 0, 0 ], "images": [ ], "nbd_mirror_failed": 0 }'"""  # noqa: E501
    )
    assert tapctl.stats(VBD)["images"] == []
    assert fake.calls() == ["stats -p 17405 -m 0"]


@pytest.mark.parametrize(
    "printed, number",
    [("true", errno.ENODEV), ("echo", errno.ENODEV), ("echo '{ \"a'", errno.EPROTO)],
)
def test_stats_without_an_answer_fails(fake, printed, number):
    fake(printed)
    with pytest.raises(TapCtlError) as caught:
        tapctl.stats(VBD)
    assert caught.value.errno == number


def test_a_failure_carries_the_exit_code_and_what_was_said(fake):
    fake("echo 'Connection refused' >&2; exit 111")
    with pytest.raises(TapCtlError) as caught:
        tapctl.pause(VBD)
    assert caught.value.errno == errno.ECONNREFUSED
    assert caught.value.failure() == [
        "SXM_TAP_CTL",
        "pause -p 17405 -m 0",
        "111",
        "Connection refused",
    ]


def test_a_missing_program_is_a_failure(fake):
    with pytest.raises(TapCtlError) as caught:
        tapctl.list()
    assert caught.value.errno == errno.ENOENT


def test_a_call_that_does_not_end_is_ended(fake, tmp_path):
    fake("echo $$ > %s/pid; exec sleep 60" % tmp_path)
    started = time.monotonic()
    with pytest.raises(TapCtlError) as caught:
        tapctl.pause(VBD, timeout=2.0)
    assert caught.value.errno == errno.ETIMEDOUT
    assert time.monotonic() - started < 50
    assert not os.path.exists("/proc/%s" % (tmp_path / "pid").read_text().strip())


@pytest.mark.parametrize(
    "device", ["/run/blktap-control/tapdisk/tapdisk-12", "/dev/xen/blktap-2/tapdev12"]
)
def test_create_finds_the_tapdisk_by_its_minor(fake, device):
    fake(
        """case $1 in
create) echo %s;;
list) echo pid=9 minor=12 state=0 args=vhd:/p/x;;
esac"""
        % device
    )
    assert tapctl.create("vhd:/p/x", readonly=True) == tapctl.Vbd(9, 12, 0, "vhd:/p/x")
    assert fake.calls() == ["create -a vhd:/p/x -R", "list -m 12"]


@pytest.mark.parametrize(
    "created, number", [("echo odd", errno.EPROTO), ("echo tapdisk-1", errno.ESRCH)]
)
def test_create_without_a_tapdisk_fails(fake, created, number):
    fake("case $1 in create) %s;; list) echo minor=1;; esac" % created)
    with pytest.raises(TapCtlError) as caught:
        tapctl.create("vhd:/p/x")
    assert caught.value.errno == number


def test_a_tapdisk_that_hangs_in_its_open_is_killed_and_no_other(fake, tmp_path, monkeypatch):
    """It would open the image when its storage answers, beside the next one. It is nobody's child
    any more."""
    fake(
        """case $1 in
list) exec sleep 60;;
create) (setsid sleep 60 & echo $! > {0}/tapdisk); exec sleep 60;;
esac""".format(tmp_path)
    )
    other = subprocess.Popen(["sleep", "60"], env=dict(os.environ, SXM_TAP_CTL="another's"))
    try:
        with pytest.raises(TapCtlError) as caught:
            tapctl.create("vhd:/p/x", timeout=2.0)
        (pid,) = (tmp_path / "tapdisk").read_text().split()
        assert launch.Process.of(int(pid)) is None and other.poll() is None
    finally:
        other.kill()
        other.wait(10)
    assert caught.value.errno == errno.ETIMEDOUT
    assert caught.value.details[2] == "no end after 2.0 s; its tapdisk is killed"


def test_a_tap_ctl_that_cannot_end_yet_is_said_to_have_timed_out(fake, monkeypatch):
    """And what it has begun is looked for all the same."""
    fake("exec sleep 60")
    wait, begun = subprocess.Popen.wait, []

    def late(process, timeout=None):
        begun.append(process)
        raise subprocess.TimeoutExpired("tap-ctl", timeout)

    monkeypatch.setattr(tapctl.launch, "with_environment", lambda name, value: [])
    with monkeypatch.context() as patched:
        patched.setattr(subprocess.Popen, "wait", late)
        with pytest.raises(TapCtlError, match="its tapdisk is killed"):
            tapctl.create("vhd:/p/x", timeout=0.5)
    wait(begun[0], 10)


def test_one_that_cannot_end_yet_is_named(fake, monkeypatch):
    """As while the kernel waits for a dead NFS server."""
    fake("exec sleep 60")
    stuck = launch.Process(4711, 1)
    monkeypatch.setattr(launch.Process, "kill", lambda process: None)
    monkeypatch.setattr(tapctl.launch, "with_environment", lambda name, value: [stuck])
    monkeypatch.setattr(tapctl, "KILL_TIMEOUT", 0.2)
    with pytest.raises(TapCtlError, match="ends when its storage answers: pid 4711"):
        tapctl.create("vhd:/p/x", timeout=0.5)


def test_unpause_says_only_what_is_asked(fake):
    fake("true")
    tapctl.unpause(VBD)
    tapctl.unpause(VBD, args="vhd:/leaf", secondary="nbd:/sock")
    tapctl.unpause(VBD, secondary="null")
    tapctl.unpause(VBD, log="/log")
    assert fake.calls() == [
        "unpause -p 17405 -m 0",
        "unpause -p 17405 -m 0 -a vhd:/leaf -2 nbd:/sock",
        "unpause -p 17405 -m 0 -2 null",
        "unpause -p 17405 -m 0 -c /log",
    ]


def test_destroy(fake):
    fake("true")
    tapctl.destroy(VBD)
    assert fake.calls() == ["destroy -p 17405 -m 0"]


def test_nbd_socket(fake, tmp_path):
    assert tapctl.nbd_socket(VBD) == str(tmp_path) + "/run/blktap-control/nbd17405.0"


def test_poked_pokes_until_a_pause_returns(fake, tmp_path):
    """A pause that waits for two pokes, and pokes that fail at first."""
    fake(
        """case $1 in
pause) until [ -e {0}/second ]; do sleep 0.01; done;;
list) [ -e {0}/first ] && touch {0}/second; touch {0}/first; exit 111;;
esac""".format(tmp_path)
    )
    with tapctl.poked(17405):
        tapctl.pause(VBD, timeout=20)
    count = len(fake.calls())
    assert "list -p 17405" in fake.calls()
    never(lambda: len(fake.calls()) != count, "it pokes on", 0.1)


def test_poked_ends_when_the_body_fails(fake):
    fake("exit 19")
    with pytest.raises(TapCtlError):
        with tapctl.poked(1):
            tapctl.pause(VBD)
