# SPDX-License-Identifier: LGPL-2.1-only
"""What the campaign of faults stands on: the link that can be cut and slowed down, the rules for a
worker, the plan of a run."""

import collections
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from lab.dom0 import breakpoint, relayed_movers, scripts
from lab.pools.link import Link
from lab.pools.roots import REPOSITORY
from tests.e2e.moments import MOMENTS, NAMES
from tests.faults import cases
from tests.faults.injection import unfinished_leaves

PATIENCE = 10.0
Host = collections.namedtuple("Host", "root")


@pytest.fixture
def echo():
    """The address of a server that sends back what it is sent."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve(connection):
        with connection:
            for piece in iter(lambda: connection.recv(4096), b""):
                connection.sendall(piece)

    def accept():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()
    server.shutdown(socket.SHUT_RDWR)
    server.close()


@pytest.fixture
def link(tmp_path):
    (tmp_path / "etc").mkdir()
    with Link([Host(str(tmp_path))]) as link:
        yield link


def over(tmp_path, target):
    """A connection to `target` as a mover's: over the relay."""
    with open(str(tmp_path) + relayed_movers.PLACE) as stream:
        connection = socket.create_connection(tuple(json.load(stream)), PATIENCE)
    connection.sendall(("%s %d\n" % target).encode())
    return connection


def ask(connection, data=b"hello"):
    connection.sendall(data)
    answer = b""
    while len(answer) < len(data):
        piece = connection.recv(4096)
        if not piece:
            raise ConnectionResetError
        answer += piece
    return answer


def test_a_link_carries(link, tmp_path, echo):
    with over(tmp_path, echo) as connection:
        assert ask(connection) == b"hello"
    assert link.carried == 10


def test_a_link_is_cut_and_healed(link, tmp_path, echo):
    with over(tmp_path, echo) as connection:
        assert ask(connection) == b"hello"
        link.cut(refuse=True)
        with pytest.raises(OSError):
            ask(connection)
    with over(tmp_path, echo) as connection, pytest.raises(OSError):
        ask(connection)
    link.heal()
    with over(tmp_path, echo) as connection:
        assert ask(connection) == b"hello"


def test_a_slow_link(link, tmp_path, echo):
    with over(tmp_path, echo) as connection:
        link.limit(20000)
        begun = time.monotonic()
        assert len(ask(connection, b"x" * 20000)) == 20000
        assert 1.0 < time.monotonic() - begun < 2.0 + PATIENCE
        link.limit(0)
        connection.settimeout(0.5)
        with pytest.raises(socket.timeout):
            ask(connection)
        link.heal()
        connection.settimeout(PATIENCE)
        assert connection.recv(5) == b"hello"


def test_rules_of_several_names(tmp_path):
    """A process that looks like a worker gets one signal for each rule, at its write; what has not
    happened is told."""
    root = str(tmp_path)
    breakpoint.arm(root, MOMENTS["sync"], nth=2, signal=0, name="second")
    breakpoint.arm(root, MOMENTS["move"], before=True, signal=9, name="last")
    breakpoint.arm(root, MOMENTS["end"], name="never")
    program = (
        "from storage_motion.journal.journal import Journal\n"
        "Journal.__init__ = lambda journal: setattr(journal, 'entry', {'disks': {'key': {}}}) or "
        "setattr(journal, 'path', '%s/j')\n"
        "journal = Journal()\n"
        "for phase in ('claim', 'sync', 'sync', 'move', 'end'): print(phase, flush=True), "
        "journal.write(phase=phase)\n" % root
    )
    environment = dict(
        os.environ,
        SXM_ROOT=root,
        PYTHONPATH=os.pathsep.join([root + scripts.SITE_PACKAGES, REPOSITORY]),
    )
    done = subprocess.run(
        [sys.executable, "-c", program, breakpoint.WORKER],
        stdout=subprocess.PIPE,
        env=environment,
        timeout=60,
    )
    assert done.returncode == -9 and done.stdout.decode().split() == [
        "claim",
        "sync",
        "sync",
        "move",
    ]
    with open(root + "/j") as journal:
        assert json.load(journal)["phase"] == "sync"
    assert breakpoint.armed(root) == ["never"] == breakpoint.disarm(root)
    assert breakpoint.armed(root) == []


def test_a_round_has_each_case_once():
    runs = cases.round_of(0)
    assert sorted(case for run in runs for case in run) == sorted(cases.all_cases())
    assert len(set(cases.all_cases())) == len(cases.all_cases()) >= 300
    for run in runs:
        phases = [NAMES.index(case.phase) for case in run]
        assert phases == sorted(set(phases)) and all(map(cases.survived, run[:-1]))


def test_a_seed_tells_the_whole_run():
    seeds = cases.seeds_for(700)
    assert seeds == list(range(len(seeds))) and sum(len(cases.plan(seed)) for seed in seeds) >= 700
    assert (
        cases.plan(3) == cases.round_of(0)[3]
        and cases.plan(len(cases.round_of(0)) + 3) == cases.round_of(1)[3]
    )


def test_of_a_killed_command_of_sm_only_its_own_leaf_is_its_leftover(tmp_path):
    """Not that of another command, nor an image that it was done with."""
    made = "2026-11-28 05:44:25 SM: [%d] ['qemu-img', 'create', '-b', 'base.qcow2', '%s', '8192']\n"
    (tmp_path / "var/log").mkdir(parents=True)
    names = ("a.qcow2.new", "b.qcow2.new", "c.qcow2", "renamed.qcow2.new")
    a, b, c, renamed = (str(tmp_path / name) for name in names)
    for path in (a, b, c):
        open(path, "w").close()
    commands = ((7, renamed), (7, a), (7, c), (17, b), (71, b))
    (tmp_path / "var/log/SMlog").write_text("".join(made % command for command in commands))
    assert unfinished_leaves(str(tmp_path), 7) == [a]
