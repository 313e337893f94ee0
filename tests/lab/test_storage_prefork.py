# SPDX-License-Identifier: LGPL-2.1-only
"""dom0's Python in the storage guest: short programs are run by forks of a process that has done
their imports, and notice nothing."""

import contextlib
import os
import shutil
import subprocess

import pytest

from lab.dom0 import scripts
from lab.storage_guest import image, prefork
from tests.eventually import eventually

PYTHON = os.path.join(image.HERE, "python")
PROGRAM = """#!/usr/bin/python3
import os, sys, time
parent = open("/proc/%d/cmdline" % os.getppid()).read()
print("fork" if "/prefork.py\\0" in parent else "alone", sys.argv[1:], os.environ["SXM_ROOT"], os.environ.get("EXTRA"), os.getcwd())
print("complaint", file=sys.stderr)
if sys.argv[1] == "sleep":
    with open(sys.argv[2], "w") as out:
        out.write("%d\\n" % os.getpid())
    time.sleep(120)
if "at-once" in sys.argv:
    if not os.fork():
        os._exit(9)
    os.wait()
    sys.stdout.flush()
    os._exit(int(sys.argv[1]))
sys.exit(int(sys.argv[1]))
"""  # noqa: E501
BOUND = 60.0

pytestmark = pytest.mark.skipif(
    not hasattr(os, "pidfd_open") or not os.path.exists("/usr/bin/python3"), reason="needs pidfds"
)


@pytest.fixture
def program(tmp_path):
    """A driver of a host whose Python has its server up. Both are gone afterwards."""
    root = str(tmp_path)
    os.mkdir(root + "/run")
    scripts.write_interpreter(root, PYTHON)
    path = scripts.install_text(
        PROGRAM.replace("/usr/bin/python3", root + "/usr/bin/python3", 1),
        root,
        "/opt/xensource/sm/TestSR",
    )
    os.chmod(path, 0o755)
    assert call(path, "0")[1].startswith("fork ")
    yield path
    servers = of_server(root)
    shutil.rmtree(root)
    eventually(
        lambda: not any(os.path.exists("/proc/%d/cwd" % pid) for pid in servers),
        "the servers are gone",
    )


def of_server(root):
    """The pids of the servers of a root, and of their forks."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % name) as cmdline:
                if "prefork.py\0" + root in cmdline.read():
                    found.append(int(name))
        except OSError:
            continue
    return found


def call(path, *arguments):
    done = subprocess.run(
        [path] + list(arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=BOUND,
        cwd="/usr",
        env=dict(os.environ, EXTRA="yes"),
    )
    return done.returncode, done.stdout, done.stderr


def test_a_program_has_its_arguments_environment_directory_output_and_status(program):
    root = program[: -len("/opt/xensource/sm/TestSR")]
    assert call(program, "3", "<?xml a b?>\n") == (
        3,
        "fork ['3', '<?xml a b?>\\n'] %s yes /usr\n" % root,
        "complaint\n",
    )
    assert call(program, "0")[0] == 0
    eventually(
        lambda: not any(name.isdigit() for name in os.listdir(root + "/run/prefork")),
        "nothing of its calls is left",
    )


def test_a_program_that_ends_at_once_tells_it_too(program):
    status, out, _ = call(program, "3", "at-once")
    assert status == 3 and out.startswith("fork ")


def test_a_program_ends_with_its_client(program, tmp_path):
    note = str(tmp_path / "note")
    client = subprocess.Popen(
        [program, "sleep", note], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    eventually(lambda: os.path.exists(note) and open(note).read().endswith("\n"), "it sleeps")
    pid = int(open(note).read())
    assert pid != client.pid
    client.kill()
    client.wait(BOUND)
    eventually(lambda: not os.path.exists("/proc/%d" % pid), "the fork is gone")
    assert call(program, "0")[1].startswith("fork ")


def test_a_client_that_goes_before_its_fork_costs_the_next_one_nothing(tmp_path):
    """The pidfd of the next client has the number that the one before has left."""
    server = prefork.Server(str(tmp_path))
    with contextlib.ExitStack() as ended:
        clients, forks, pidfds = [], [], []
        for which in (0, 1):
            for processes in (clients, forks):
                processes.append(subprocess.Popen(["sleep", "600"]))
                ended.callback(processes[-1].wait, BOUND)
                ended.callback(processes[-1].kill)
            pidfds.append(os.pidfd_open(clients[which].pid))
            server.watch(clients[which].pid, pidfds[which], forks[which].pid)
            if which == 0:
                clients[0].kill()
                clients[0].wait(BOUND)
                server.turn(1000 * BOUND)
        assert pidfds[0] == pidfds[1]
        server.turn(1000 * BOUND)
        assert not os.path.exists("/proc/%d" % forks[0].pid), "the first fork is ended"
        clients[1].kill()
        server.turn(1000 * BOUND)
        server.turn(1000 * BOUND)
        assert not os.path.exists("/proc/%d" % forks[1].pid), "the second fork is ended"


def test_what_cannot_be_begun_in_a_fork_is_run_alone(program):
    # a closed output cannot be opened from outside
    done = subprocess.run(
        [program, "4"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        timeout=BOUND,
        preexec_fn=lambda: os.close(2),
    )
    assert (done.returncode, done.stdout.split()[0]) == (4, b"alone")
