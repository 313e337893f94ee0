# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm` as a program of its own, with a xapi over TLS: no traceback reaches a user, whatever is
wrong with the connection, this machine, or who reads."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading

import pytest

import report_sample
from served_xapi import MASTER, PASSWORD, ServedXapi, certificate
from storage_motion.cli import exit_codes
from tests.eventually import eventually

REPOSITORY = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
BOUND = 60  # seconds for a run
ID = "0f0e0d0c-0000-4000-8000-000000000001"
SXM = [
    sys.executable,
    "-c",
    "import sys; from storage_motion.cli.start import start; sys.exit(start())",
]
ONE = {
    "migration": ID,
    "state": "succeeded",
    "vm": "v",
    "vm_name": "web",
    "source_host": "p1",
    "destination_host": "p2",
}
RUNNING = dict(
    ONE,
    state="running",
    phase="sync",
    doing="copying",
    error=None,
    alive=True,
    downtime=None,
    broken=None,
    disks=[],
    snapshots=[],
    warnings=[],
    bytes_moved=0,
    bytes_to_move=1,
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return [certificate(str(folder / name), name) for name in ("one", "other")]


@pytest.fixture
def xapi(keys):
    found = ServedXapi(keys[0])
    found.answers["list"] = {"migrations": [ONE] * 3, "unreadable": []}
    with found.serving():
        yield found


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "password").write_text(PASSWORD + "\n")
    (tmp_path / "password").chmod(0o600)
    return tmp_path


class Ran:
    """What a run has ended with."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err
        assert "Traceback" not in out + err and "Exception ignored" not in out + err, err


@pytest.fixture(autouse=True)
def heeds_ctrl_c():
    """Who starts the tests in a shell's background has them, and all that they start, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def started(folder, *words, **options):
    settings = {"SXM_PASSWORD": PASSWORD, **options.pop("env", {})}
    return subprocess.Popen(
        SXM + list(words),
        cwd=str(folder),
        stdin=subprocess.DEVNULL,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": REPOSITORY,
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_DATA_HOME": str(folder / "data"),
            "HOME": str(folder),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
            **settings,
        },
        **options,
    )


def ended(process):
    try:
        out, err = process.communicate(timeout=BOUND)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Ran(process.returncode, out or "", err)


def sxm(folder, *words, **options):
    return ended(started(folder, *words, **options))


def test_all_is_well(xapi, folder):
    seen = sxm(folder, "-s", xapi.address, "list")
    assert seen.status == 0 and seen.out.count(ID) == 3
    assert "is new to this machine" in seen.err
    assert sxm(folder, "-s", xapi.address, "list").err == ""


def test_a_wrong_password(xapi, folder):
    seen = sxm(folder, "-s", xapi.address, "list", env={"SXM_PASSWORD": "wrong"})
    assert seen.status == exit_codes.NO_CONNECTION and "SXM_BAD_CREDENTIALS" in seen.err
    assert "check user and password" in seen.err and "wrong" not in seen.err


def test_nobody_listens(folder):
    seen = sxm(folder, "-s", "127.0.0.1:1", "list")
    assert seen.status == exit_codes.NO_CONNECTION
    assert "SXM_UNREACHABLE: https://127.0.0.1:1" in seen.err and "refused" in seen.err
    file = folder / "config" / "sxm" / "pools.toml"
    assert "127.0.0.1:1 is no pool of the configuration, %s\n" % file in seen.err


def test_a_name_that_was_mistyped_is_looked_for_as_an_address(folder):
    (folder / "config" / "sxm").mkdir(parents=True)
    (folder / "config" / "sxm" / "pools.toml").write_text('[pools.paris]\naddress = "10.0.0.1"\n')
    seen = sxm(folder, "-s", "127.0.0.1:1", "list")
    assert seen.status == exit_codes.NO_CONNECTION
    assert "127.0.0.1:1 is no pool of the configuration, which has paris\n" in seen.err


def test_another_certificate_and_no_password_is_sent(xapi, keys, folder):
    sxm(folder, "-s", xapi.address, "list")
    xapi._context.load_cert_chain(keys[1])
    xapi.asked.clear()
    seen = sxm(folder, "-s", xapi.address, "list")
    assert seen.status == exit_codes.NO_CONNECTION and "SXM_CERTIFICATE_CHANGED" in seen.err
    assert "sxm trust" in seen.err and xapi.asked == []


def test_a_xapi_that_has_just_begun(xapi, folder):
    xapi.failure = ["HOST_STILL_BOOTING"]
    process = started(folder, "-s", xapi.address, "list")
    eventually(lambda: len(xapi.asked) > 2, "it is asked again")
    xapi.failure = None
    assert ended(process).status == 0


def test_a_folder_of_the_configuration_that_takes_nothing(xapi, folder):
    """Of a pool that is new; root may write whatever the mode says, but not there."""
    seen = sxm(folder, "-s", xapi.address, "list", env={"XDG_CONFIG_HOME": "/proc/self"})
    assert seen.status == exit_codes.NO_CONNECTION
    assert "SXM_CERTIFICATE_NOT_KEPT: %s" % xapi.address in seen.err and xapi.asked == []
    assert "/proc/self/sxm: " in seen.err and "set XDG_CONFIG_HOME" in seen.err


def test_a_configuration_that_cannot_be_read(folder):
    seen = sxm(folder, "list", env={"XDG_CONFIG_HOME": str(folder / "password")})
    assert seen.status == exit_codes.NOT_UNDERSTOOD
    assert "SXM_BAD_CONFIGURATION: %s/password/sxm/pools.toml" % folder in seen.err


def test_a_file_of_a_password_that_is_none(xapi, folder):
    (folder / "binary").write_bytes(b"\xff\xfe\n")
    for name, why in (("missing", "cannot be read: No such file"), ("binary", "no text in UTF-8")):
        seen = sxm(folder, "-s", xapi.address, "list", "--password-file", name)
        assert seen.status == exit_codes.NO_CONNECTION
        assert "sxm: SXM_NO_PASSWORD: %s" % name in seen.err and why in seen.err
    seen = sxm(folder, "-s", xapi.address, "list", env={"SXM_PASSWORD": ""})
    assert seen.status == exit_codes.NO_CONNECTION and "--password-file FILE" in seen.err


@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_whoever_reads_goes_away(xapi, folder, json_too):
    """`sxm list | head -1`, with more than a pipe holds."""
    xapi.answers["list"] = {"migrations": [ONE] * 3000, "unreadable": []}
    sxm(folder, "-s", xapi.address, "list")
    process = started(folder, "-s", xapi.address, "list", *json_too)
    assert process.stdout.readline()
    process.stdout.close()
    _, err = process.communicate(timeout=BOUND)
    assert (process.returncode, err) == (exit_codes.FAILED, "")


@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_a_full_disk_takes_what_is_told(xapi, folder, json_too):
    sxm(folder, "-s", xapi.address, "list")
    with open("/dev/full", "w") as full:
        seen = sxm(folder, "-s", xapi.address, "list", *json_too, stdout=full)
    assert seen.status == exit_codes.FAILED
    assert seen.err == "sxm: SXM_OS_ERROR: No space left on device\n"


def test_a_closed_standard_output(xapi, folder):
    sxm(folder, "-s", xapi.address, "list")
    seen = sxm(folder, "-s", xapi.address, "list", preexec_fn=lambda: os.close(1))
    assert (seen.status, seen.err) == (0, "")


def test_a_full_disk_for_a_report(xapi, folder, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(folder / "dom0"))
    os.makedirs(str(folder / "dom0"))
    xapi.answers["report"] = report_sample.answer()
    sxm(folder, "-s", xapi.address, "list")

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    seen = sxm(folder, "-s", xapi.address, "report", ID, "-o", "page.html", preexec_fn=full)
    assert seen.status == exit_codes.FAILED
    assert seen.err == "sxm: SXM_OS_ERROR: page.json: File too large\n"
    assert sorted(path.name for path in folder.iterdir() if "page" in path.name) == []
    seen = sxm(folder, "-s", xapi.address, "report", ID, "-o", "nowhere/page.html")
    assert seen.err == "sxm: SXM_OS_ERROR: nowhere/page.json: No such file or directory\n"


def test_ctrl_c_in_a_call(xapi, folder):
    sxm(folder, "-s", xapi.address, "list")
    process = _asking(xapi, folder)
    process.send_signal(signal.SIGINT)
    seen = ended(process)
    assert seen.status == exit_codes.INTERRUPTED
    assert seen.err.startswith("sxm: SXM_INTERRUPTED: by you; what was begun goes on")


def _asking(xapi, folder):
    """A run that waits for an answer."""
    xapi.failure = ["HOST_STILL_BOOTING"]
    xapi.asked.clear()
    process = started(folder, "-s", xapi.address, "list")
    eventually(lambda: "pool.get_all" in xapi.asked, "it has asked")
    return process


def test_ctrl_c_while_several_are_asked_at_once(xapi, folder):
    """Those that have no answer yet hold it up neither then nor at its end."""
    begun, ends = threading.Event(), threading.Event()

    def recover(_):
        begun.set()
        ends.wait(BOUND)
        return {"migrations": []}

    xapi.answers.update(recover=recover)
    xapi.values["host.get_all_records"] = {MASTER: {"uuid": ID, "name_label": "p1"}}
    sxm(folder, "-s", xapi.address, "list")
    process = started(folder, "-s", xapi.address, "recover")
    try:
        assert begun.wait(BOUND)
        process.send_signal(signal.SIGINT)
        seen = ended(process)
    finally:
        ends.set()
    assert seen.status == exit_codes.INTERRUPTED
    assert "host p1 has not answered yet: what was begun there goes on" in seen.err


def test_ctrl_c_while_it_is_loaded(folder):
    """It is stopped in mid-import: there is nothing to tell, and nothing is told."""
    halfway = (
        "import os, signal, sys\n"
        "class Halfway:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Halfway())\n"
        "from storage_motion.cli.start import start\n"
        "sys.exit(start())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", halfway, "list"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=BOUND,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_xapi_that_is_restarted_while_it_is_watched(xapi, keys, folder):
    xapi.answers.update(status=RUNNING)
    sxm(folder, "-s", xapi.address, "list")
    port = xapi.port
    process = started(folder, "-s", xapi.address, "watch", ID)
    eventually(lambda: xapi.asked.count("host.call_plugin") > 2, "it is watched")
    xapi.failure = ["HOST_STILL_BOOTING"]
    seen = xapi.asked.count("host.call_plugin")
    eventually(lambda: xapi.asked.count("host.call_plugin") > seen + 1, "it is asked all the same")
    xapi.answers.update(status=dict(RUNNING, state="succeeded", bytes_moved=1))
    xapi.failure = None
    seen = ended(process)
    assert seen.status == 0 and xapi.port == port
    assert "The pool does not answer (HOST_STILL_BOOTING)" in seen.out
    assert seen.out.splitlines()[-1] == "web: succeeded"


def test_what_is_no_xapi(folder):
    """An HTTP server without TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = "127.0.0.1:%d" % listening.getsockname()[1]
        process = started(folder, "-s", address, "list", "--json")
        connection = listening.accept()[0]
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.close()
        seen = ended(process)
    assert seen.status == exit_codes.NO_CONNECTION
    assert json.loads(seen.out)["error"]["code"] == "SXM_UNREACHABLE"
