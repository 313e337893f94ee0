# SPDX-License-Identifier: LGPL-2.1-only
"""xenopsd's hooks: who may start, who is told, what is noted; and that no VM that is none of ours
is hindered, whatever is broken."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from fake_migration import make_plan
from storage_motion.api import hooks
from storage_motion.journal import arrival, closing
from storage_motion.journal.journal import RECEIVING, Journal
from storage_motion.migration import migration, resume

REPOSITORY = os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
)
ID, OTHER = "11111111-2222-3333-4444-555555555555", "22222222-2222-3333-4444-555555555555"
VM, STRANGER = "99999999-8888-7777-6666-555555555555", "88888888-8888-7777-6666-555555555555"
STARTS = ("vm-pre-start", "vm-pre-resume")
HANDED = ("locking", "locked", "opening", "open")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    return tmp_path


def moving(found=ID, gate=None, **fields):
    """The journal of a migration of VM from disk s/l to disk d/n."""
    entry = Journal.create(found, **migration.initial(make_plan(vm=VM, destination_host_name="b1")))
    if gate:
        entry.entry["disks"]["k"]["gate"] = gate
    entry.write(**fields)
    return entry


def plugged(root, *locators, vm=VM):
    """xenopsd's files of a VM with these disks."""
    directory = root / "run/nonpersistent/xenopsd/classic/VM" / vm
    shutil.rmtree(str(directory), ignore_errors=True)
    directory.mkdir(parents=True)
    for number, locator in enumerate(locators):
        (directory / ("vbd.xvd%s" % "abc"[number])).write_text(
            json.dumps({"ty": "Disk", "backend": ["VDI", locator], "id": [vm, "x"]})
        )


def run(hook, reason="none", vm=VM):
    """Run it as its process does: its exit status."""
    return hooks.main([hook, vm, reason])


@pytest.mark.parametrize("hook", STARTS)
@pytest.mark.parametrize(
    "gate, fields, allowed",
    [(None, {}, True), ("attached", {}, True), ("detached", {}, True)]
    + [(step, {}, False) for step in HANDED]
    + [
        (None, {"committed": True}, False),
        (
            "open",
            {"committed": True, "state": "failed", "error": ["X"], "left": ["clean-up: no"]},
            False,
        ),
        ("opening", {"state": "failed", "error": ["X"], "left": ["undecided"]}, False),
        ("attached", {"state": "failed", "error": ["X"], "left": ["undo receive: no"]}, True),
        ("attached", {"state": "cancelled", "error": ["X"]}, True),
        ("open", {"committed": True, "state": "succeeded"}, False),
    ],
)
def test_a_vm_is_not_started_from_a_disk_that_has_been_handed_over(
    root, capsys, hook, gate, fields, allowed
):
    moving(gate=gate, **fields)
    plugged(root, "s/l", "s/other")
    assert run(hook) == (0 if allowed else hooks.REFUSED)
    told = capsys.readouterr().out
    assert (
        told == ""
        if allowed
        else ID in told and "s/l" in told and "b1" in told and "fn=recover" in told
    ), told
    plugged(root, "d/n", "s/other")
    assert run(hook) == 0, "on its new disks, as a guest that reboots where it has arrived"


def test_it_is_the_disk_that_decides_and_not_what_the_marks_or_the_host_say(root):
    moving(gate="open")
    moving(OTHER, gate="attached", state="cancelled", error=["X"])
    plugged(root)
    assert run("vm-pre-start") == 0, "it has no disk"
    (root / "run/nonpersistent/xenopsd/classic/VM" / VM / "vbd.xvda").write_text(
        '{"backend":["VDI","s\\/l"]}'
    )
    assert run("vm-pre-start") == hooks.REFUSED, "however it is written"


@pytest.mark.parametrize("unseen", ["no files", "another form"])
def test_where_its_disks_cannot_be_seen_only_one_that_has_arrived_here_is_started(
    root, capsys, unseen
):
    moving(gate="open")
    if unseen == "another form":
        plugged(root, "s/l")
        (root / "run/nonpersistent/xenopsd/classic/VM" / VM / "vbd.xvda").write_text(
            '{"backend": {"VDI": "s/l"}}'
        )
    assert run("vm-pre-start") == hooks.REFUSED and ID in capsys.readouterr().out
    arrival.note(ID, VM)
    assert run("vm-pre-start") == 0


@pytest.mark.parametrize(
    "text, allowed",
    [
        ('{"plan": {"vm": "%s"' % VM, False),
        ('{"version": 99, "state": "running", "vm": "%s"}' % VM, False),
        ('{"version": 99, "state": "failed", "left": ["x"], "vm": "%s"}' % VM, False),
        ('{"version": 99, "state": "succeeded", "left": [], "vm": "%s"}' % VM, True),
        ('{"plan": "torn', True),
        ("", True),
    ],
)
def test_a_journal_that_cannot_be_read_hinders_the_vm_that_it_names_and_no_other(
    root, capsys, text, allowed
):
    moving()
    path = root / "var/lib/sxm" / (ID + ".json")
    path.write_text(text)
    assert run("vm-pre-start") == (0 if allowed else hooks.REFUSED)
    assert allowed or str(path) in capsys.readouterr().out
    assert run("vm-pre-start", vm=STRANGER) == 0
    moving(OTHER, gate="open")
    plugged(root, "s/l")
    assert run("vm-pre-start") == hooks.REFUSED


def test_what_is_no_file_in_the_place_of_a_journal_hides_no_other(root):
    (root / "var/lib/sxm" / (OTHER + ".json")).mkdir(parents=True)
    moving(gate="open")
    plugged(root, "s/l")
    assert run("vm-pre-start") == hooks.REFUSED
    plugged(root, "d/n")
    assert run("vm-pre-start") == 0


@pytest.mark.parametrize(
    "reason, mirror, fields, told",
    [
        ("hard-reboot", True, {}, True),
        ("clean-shutdown", True, {}, True),
        ("suspend", True, {}, False),
        ("hard-reboot", False, {}, False),
        ("hard-reboot", True, {"committed": True}, False),
        ("hard-reboot", True, {"state": "failed", "error": ["X"]}, False),
    ],
)
def test_a_guest_that_closes_its_disks_is_told_of(root, reason, mirror, fields, told):
    entry = moving()
    entry.entry["disks"]["k"]["mirror"] = mirror
    entry.write(**fields)
    (root / "var/lib/sxm" / (OTHER + ".json")).write_text("torn, of VM " + VM)
    assert run("vm-pre-shutdown", reason) == 0
    assert closing.noted(ID) == (reason if told else None)
    assert run("vm-pre-reboot") == 0
    assert os.path.exists(resume._path(ID)) == (told or reason == "suspend")
    closing.forget(ID)
    closing.forget(ID)
    assert closing.noted(ID) is None


def test_a_guest_that_reboots_while_disks_of_snapshots_are_sent_is_not_told_of(root):
    """It has none of them open: there is nothing to be made anew."""
    one = make_plan().disks[0]
    plan = make_plan(vm=VM, history=[one._replace(key="s", snapshot="t")])
    entry = Journal.create(ID, **migration.initial(plan))
    entry.entry["disks"]["s"]["state"] = "copying"
    entry.write()
    assert run("vm-pre-shutdown", "hard-reboot") == 0 == run("vm-pre-reboot")
    assert closing.noted(ID) is None and not os.path.exists(resume._path(ID))
    entry.entry["disks"]["k"]["state"] = "copying"
    entry.write()
    assert run("vm-pre-shutdown", "hard-reboot") == 0
    assert closing.noted(ID) == "hard-reboot"


def receiving(found=ID, vm=VM, **fields):
    disk = {"vdi": "n", "sr": "d", "created": True, "shut": True, "location": "n"}
    return Journal.create(
        found,
        RECEIVING,
        **dict({"vm": vm, "disks": {"k": disk}, "srs": ["d"], "receivers": []}, **fields),
    )


def test_an_arrival_is_noted_for_the_migration_whose_disks_the_vm_has(root):
    receiving()
    older = {"vdi": "o", "sr": "d", "created": True, "shut": True, "location": "o"}
    receiving(OTHER, disks={"k": older})
    plugged(root, "d/n", "d/stays")
    assert run("vm-post-migrate", "destination") == 0
    assert arrival.read(ID)["vm"] == VM and arrival.read(OTHER) is None


def test_a_disk_that_the_vm_has_not_plugged_is_not_waited_for(root):
    disk = {"vdi": "n", "sr": "d", "created": True, "shut": True, "location": "n"}
    receiving(disks={"k": disk, "l": dict(disk, location="u", unplugged=True)})
    plugged(root, "d/n")
    assert run("vm-post-migrate", "destination") == 0
    assert arrival.read(ID)["vm"] == VM


@pytest.mark.parametrize(
    "fields, disks",
    [
        ({}, ["d/o"]),
        ({"state": "cancelled"}, ["d/n"]),
        ({"disks": {}}, ["d/n"]),
        ({"vm": STRANGER, "srs": [VM]}, ["d/n"]),
    ],
)
def test_what_has_not_arrived_is_not_noted(root, fields, disks):
    receiving(**fields)
    plugged(root, *disks)
    assert run("vm-post-migrate", "destination") == 0 and arrival.read(ID) is None


def test_where_its_disks_cannot_be_seen_it_has_arrived_for_the_newest(root):
    receiving(OTHER)
    os.utime(str(root / "var/lib/sxm" / ("receive-%s.json" % OTHER)), (1, 1))
    receiving()
    assert run("vm-post-migrate", "destination") == 0
    assert arrival.read(ID) and arrival.read(OTHER) is None


# The script in front of it.

NAMES = ("vm-post-migrate", "vm-pre-reboot", "vm-pre-resume", "vm-pre-shutdown", "vm-pre-start")


def script(root, hook="vm-pre-start", vm=VM, python='#!/bin/sh\nexec %s "$@"\n' % sys.executable):
    """Install the script as on a host, and run it as xenopsd does: (exit status, standard
    output)."""
    for name in NAMES:
        directory = root / "etc/xapi.d" / name
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(
            os.path.join(REPOSITORY, "xapi-hooks", name, "10-sxm"), str(directory / "10-sxm")
        )
    if python:
        (root / "usr/bin").mkdir(parents=True, exist_ok=True)
        (root / "usr/bin/python3").write_text(python)
        (root / "usr/bin/python3").chmod(0o755)
    environment = {
        "PATH": "/sbin:/usr/sbin:/bin:/usr/bin",
        "SXM_ROOT": str(root),
        "PYTHONPATH": os.pathsep.join([REPOSITORY, os.path.join(REPOSITORY, "lab/python_libs")]),
    }
    done = subprocess.run(
        [
            str(root / "etc/xapi.d" / hook / "10-sxm"),
            "-vmuuid",
            vm,
            "-reason",
            "none",
            "-vmdomid",
            "7",
        ],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        timeout=60,
        cwd="/",
    )
    return done.returncode, done.stdout.decode("utf-8")


def test_there_is_one_script_for_each_hook():
    assert (
        sorted(os.listdir(os.path.join(REPOSITORY, "xapi-hooks")))
        == sorted(NAMES)
        == sorted(hooks.HOOKS)
    )


@pytest.mark.parametrize("hook", NAMES)
def test_the_script_runs_the_hook(root, hook):
    moving(gate="open")
    plugged(root, "s/l")
    code, told = script(root, hook)
    assert (code, ID in told) == ((3, True) if hook in STARTS else (0, False))


def test_a_name_that_has_no_ascii_is_told_all_the_same(root):
    """xenopsd gives its hooks no locale."""
    entry = Journal.create(
        ID, **migration.initial(make_plan(vm=VM, destination_host_name="Z\u00fcrich"))
    )
    entry.write(committed=True)
    plugged(root, "s/l")
    code, told = script(root)
    assert code == hooks.REFUSED and "Z\u00fcrich" in told


BROKEN = {
    "no python": None,
    "library missing": '#!/bin/sh\nexec %s -E -S "$@"\n' % sys.executable,
    "it is killed": "#!/bin/sh\nkill -9 $$\n",
    "it exits with 2": "#!/bin/sh\nexit 2\n",
    "not for this machine": "\x7fELF",
}


@pytest.mark.parametrize("python", [BROKEN[name] for name in sorted(BROKEN)], ids=sorted(BROKEN))
@pytest.mark.parametrize("hook", NAMES)
def test_a_broken_installation_hinders_nobody(root, hook, python):
    moving(gate="attached", state="succeeded")
    assert script(root, hook, python=python)[0] == 1
    assert script(root, hook, STRANGER, python)[0] == 0


NO_PYTHON = "#!/bin/sh\ntouch %s\nexit 3\n"


@pytest.mark.parametrize(
    "made", ["nothing", "journals of others", "a directory in the place of one"]
)
def test_a_vm_that_is_none_of_ours_costs_no_python(root, made):
    if made != "nothing":
        moving(gate="open")
        (root / "var/lib/sxm" / ("receive-%s.json" % ID)).write_text("torn")
    if made == "a directory in the place of one":
        (root / "var/lib/sxm" / (OTHER + ".json")).mkdir()
    for hook in NAMES:
        assert script(root, hook, STRANGER, NO_PYTHON % (root / "ran")) == (0, "")
    assert not (root / "ran").exists()


def test_a_log_that_cannot_be_written_hinders_nobody(root):
    (root / "var/log/sxm.log").mkdir(parents=True)
    moving(gate="attached")
    plugged(root, "s/l")
    assert run("vm-pre-start") == 0
