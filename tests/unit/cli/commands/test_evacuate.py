# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm evacuate`, as a person gives it."""

import json
import sys

import pytest

from fake_pool import GIB, add_sr, add_vdi, add_vm, by_name, failure, uuid_of
from storage_motion.cli.evacuation import run as runs, scans
from storage_motion.cli.evacuation.display import Display
from storage_motion.cli.report import answers, kept
from storage_motion.cli.report.page import Written


class Plugin:
    """Moves each VM as soon as it is asked; `fails`: {VM's name: its error}; `refuses`: the same,
    before it begins. `stops`: Ctrl-C comes at the first look at one that runs."""

    def __init__(self, pool):
        self.pool, self.fails, self.refuses, self.stops = pool, {}, {}, False
        self.begun = []
        self.given = []

    def migrate(self, given):
        name = next(
            vm["name_label"] for vm in self.pool.tables["VM"].values() if vm["uuid"] == given["vm"]
        )
        self.given.append(given)
        if name in self.refuses:
            raise failure(*self.refuses[name])
        if given.get("dry-run") == "true":
            disks = [{"key": key[4:], "data": 5} for key in given if key.startswith("vdi:")]
            return {
                "room": [],
                "disks": [],
                "vifs": [],
                "plan": {
                    "source_host": "h",
                    "source_host_name": "p1",
                    "destination_host_name": "p1",
                    "destination_host": "h",
                    "disks": disks,
                    "history": [],
                    "warnings": [],
                },
            }
        self.begun.append((name, given))
        return {"migration": "m%d" % (len(self.begun) - 1), "task": "t"}

    def list(self, _):
        return {
            "migrations": [
                {
                    "migration": "m%d" % number,
                    "vm": given["vm"],
                    "state": "succeeded",
                    "source_host": "p1",
                    "destination_host": "p1",
                }
                for number, (_, given) in enumerate(self.begun)
            ],
            "unreadable": [],
        }

    def status(self, given):
        if self.stops:
            raise KeyboardInterrupt
        name, asked = self.begun[int(given["migration"][1:])]
        error = self.fails.get(name)
        return {
            "migration": given["migration"],
            "state": "failed" if error else "succeeded",
            "error": error,
            "committed": not error,
            "left": [],
            "bytes_moved": 5,
            "bytes_to_move": 5,
            "started": 1.0,
            "updated": 2.0,
            "disks": [
                {"vdi": key[4:], "destination_sr": sr}
                for key, sr in asked.items()
                if key.startswith("vdi:")
            ],
        }


@pytest.fixture
def plugin(sxm, tmp_path, monkeypatch):
    """Of paris, whose SR p1-sr has the disks of web and db, and a disk of nobody."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(runs, "POLL", 0.0)
    monkeypatch.setattr(scans.up_to_date, "scan_one", lambda session, sr: None)
    pool = sxm.pools["paris"]
    sr, host = by_name(pool, "SR", "p1-sr"), by_name(pool, "host", "p1")
    for name, disks in (("web", 2), ("db", 1)):
        add_vm(
            pool,
            host,
            [add_vdi(pool, sr, GIB) for _ in range(disks)],
            by_name(pool, "network", "guests"),
            name_label=name,
            tags=["gold"],
            snapshot_of="OpaqueRef:NULL",
            suspend_VDI="OpaqueRef:NULL",
        )
    add_vdi(pool, sr, GIB, name_label="stray")
    add_sr(pool, "new", [host])
    found = Plugin(pool)
    sxm.answers.update(migrate=found.migrate, list=found.list, status=found.status)
    return found


ARRAY = ("evacuate", "--sr", "p1-sr", "--to-sr", "new")


def states(tmp_path):
    return sorted((tmp_path / "state" / "sxm" / "evacuations").glob("*.jsonl"))


def test_a_dry_run_shows_all_and_begins_nothing(sxm, plugin, tmp_path):
    seen = sxm(*ARRAY, "--dry-run")
    assert seen.status == 0 and seen.err == ""
    assert "3 disks of 2 VMs would move" in seen.out and "stray" in seen.out
    assert plugin.begun == [] and states(tmp_path) == []
    assert max(len(line) for line in seen.out.splitlines()[:5]) <= 80
    document = sxm(*ARRAY, "--dry-run", "--json").document
    assert document["totals"]["disks"] == 3 and document["whole"]
    assert "time: unknown: none has succeeded from p1 to p1 yet" in seen.out
    assert document["estimates"] == {
        "bytes": 15,
        "seconds": None,
        "seconds_basis": "unknown: none has succeeded from p1 to p1 yet",
    }


def test_where_nothing_is_left_to_move_one_sentence_says_why(sxm, plugin):
    seen = sxm("evacuate", "--sr", "new", "--to-sr", "p1-sr", "--dry-run")
    assert seen.status == 0
    assert seen.out == "nothing is left to move: no VM has a disk in SR new\n"
    seen = sxm("evacuate", "--vm", "web", "--to-sr", "p1-sr", "--dry-run")
    first, *others = seen.out.splitlines()
    assert seen.status == 0 and first.startswith("nothing is left to move; what was found stays")
    assert others[0].startswith("not moved: VM web") and "there already" in others[0]
    assert "Verdict" not in seen.out, "no table of nothing"


def test_it_moves_all_and_adds_it_up(sxm, plugin, tmp_path):
    seen = sxm(*ARRAY, "--json")
    assert seen.status == 0
    found = seen.document
    assert found["asked"]["disks"] == 4 and found["moved"]["disks"] == 3
    assert found["skipped"] == {"vms": 0, "disks": 1, "bytes": GIB}
    assert [name for name, _ in plugin.begun] == ["db", "web"], "the smaller one first"
    assert "moved web" in seen.err, "lines for who looks on"
    assert len(states(tmp_path)) == 1
    seen = sxm(*ARRAY)
    assert seen.status == 0 and "asked for: 4 disks of 2 VMs" in seen.out
    told = seen.out.splitlines()
    assert "  moved      3 disks of 2 VMs, 3.0 GiB" in told, "as a person would say it"
    assert "  not moved  1 disk, 1.0 GiB" in told, "that no VM has"
    assert len(states(tmp_path)) == 2, "what has ended is kept, and another one begun"


def test_that_some_failed_is_said_by_its_status(sxm, plugin):
    plugin.fails = {"web": ["SXM_DESTINATION_FULL", "vdi", "no space"]}
    seen = sxm(*ARRAY)
    assert seen.status == 4
    assert "failed: VM web (2 disks): SXM_DESTINATION_FULL: vdi, no space" in seen.out
    assert "its data: at the source, untouched" in seen.out and "do: make room" in seen.out


def test_nothing_is_begun_if_anything_is_wrong(sxm, plugin, tmp_path):
    plugin.refuses = {"web": ["SXM_BAD_ARGUMENTS", "vdi:x: is paused; wait for that"]}
    seen = sxm(*ARRAY)
    assert seen.status == 5 and plugin.begun == [] and states(tmp_path) == []
    assert "refused: VM web" in seen.out and "--skip-refused" in seen.err
    seen = sxm(*ARRAY, "--skip-refused")
    assert seen.status == 4 and [name for name, _ in plugin.begun] == ["db"]
    assert "not moved: VM web" in seen.out


def test_ctrl_c_tells_what_goes_on_and_how_to(sxm, plugin, tmp_path):
    plugin.stops = True
    seen = sxm(*ARRAY, "--concurrency", "1")
    assert seen.status == 130 and [name for name, _ in plugin.begun] == ["db"]
    for text in (
        "VM db goes on by itself: migration m0",
        "run the same",
        "sxm cancel",
        "waiting: 1 VM",
    ):
        assert text in seen.err, seen.err
    plugin.stops = False
    seen = sxm(*ARRAY, "--json")
    assert seen.status == 0 and "going on with" in seen.err
    assert [name for name, _ in plugin.begun] == ["db", "web"]
    assert seen.document["moved"]["disks"] == 3 and len(states(tmp_path)) == 1


@pytest.mark.parametrize(
    "fault, told",
    [(OSError(28, "No space left on device"), "No space left"), (SystemExit(1), "nobody reads it")],
)
def test_what_cannot_be_told_ends_it_with_how_to_go_on(sxm, plugin, monkeypatch, fault, told):
    """`sxm evacuate > file`, on a full disk, or `| head`: rich makes a SystemExit of that."""

    def look(*_):
        raise fault

    monkeypatch.setattr(Display, "look", look)
    seen = sxm(*ARRAY)
    assert seen.status == 130 and "its output: %s" % told in seen.err
    assert "VM db goes on by itself" in seen.err and "run the same command again" in seen.err


def test_another_evacuation_does_not_take_over_a_name(sxm, plugin):
    plugin.stops = True
    sxm(*ARRAY, "--name", "one")
    seen = sxm("evacuate", "--tag", "gold", "--to-sr", "new", "--name", "one")
    assert seen.status == 2 and "another evacuation" in seen.err


@pytest.mark.parametrize(
    "words, said",
    [
        (("--to-sr", "new"), "what is to move?"),
        (("--sr", "p1-sr"), "where to?"),
        (("--sr", "p1-sr", "--pool", "--to-sr", "new"), "not --sr and --pool"),
        (("--pool", "--to-sr", "new", "--network", "x"), "--network is for --to-pool"),
        (("--pool", "--to-sr", "new", "--argument", "vdi:x=y"), "options of its own"),
        (("--pool", "--to-sr", "new", "--argument", "problems=answer"), "problems is said by"),
        (("--tag", "glod", "--to-sr", "new"), "no VM with tag 'glod'; did you mean"),
        (("--pool", "--to-sr", "new", "--argument", "bandwidth"), "not name=value"),
        (("--sr", "nowhere", "--to-sr", "new"), "--sr, in pool paris: there is no SR 'nowhere'"),
        (("--sr", "p1-sr", "--to-sr", "x"), "--to-sr, in pool paris: there is no SR 'x'"),
        (("--sr", "p1-sr", "--to-sr", "p1-sr"), "--to-sr: p1-sr is the SR that is to be emptied"),
        (("--host", "x", "--to-sr", "new"), "--host, in pool paris: there is no host 'x'"),
        (("--vm", "x", "--to-host", "p2"), "--vm, in pool paris: there is no VM 'x'"),
        (("--pool", "--to-host", "x"), "--to-host, in pool paris: there is no host 'x'"),
        (("--pool", "--to-pool", "lyon", "--network", "x"), "--network, in pool lyon: there is no"),
        (
            ("--pool", "--to-pool", "lyon", "--network", "x=guests"),
            "--network, in pool paris: there is no network 'x'",
        ),
        (("--pool", "--to-sr", "new", "--remote-password-file", "x"), "is for --to-pool, which"),
        (("--pool", "--to-sr", "new", "--name", "a/b"), "--name: 'a/b'; at most 100 letters"),
        (("--pool", "--to-sr", "new", "--argument", "scan=false"), "scan is said by"),
        (("--pool", "--to-sr", "new", "--concurrency", "0"), "concurrency"),
    ],
)
def test_what_is_not_understood(sxm, plugin, words, said):
    seen = sxm("evacuate", *words)
    assert seen.status == 2 and said in seen.err and plugin.given == []


def test_to_another_pool(sxm, plugin, tmp_path):
    lyon = sxm.pools["lyon"]
    words = ("evacuate", "--vm", "web", "--to-pool", "lyon", "--network", "guests=management")
    seen = sxm(*words)
    assert seen.status == 0, seen.err
    ((_, given),) = plugin.begun
    assert given["remote-master"] == "10.1.0.1" and given["remote-username"] == "admin"
    assert given["remote-password"] == "secret of lyon"
    assert given["destination-sr-uuid"] == uuid_of(lyon, "SR", by_name(lyon, "SR", "l1-sr"))
    (network,) = [value for name, value in given.items() if name.startswith("vif:")]
    assert network == uuid_of(lyon, "network", by_name(lyon, "network", "management"))
    (state,) = states(tmp_path)
    assert "secret" not in state.read_text()


def test_what_each_is_to_have_reaches_the_plugin(sxm, plugin):
    sxm(*ARRAY, "--argument", "bandwidth=1MiB", "--argument", "cbt=renew")
    assert all((one["bandwidth"], one["cbt"]) == ("1MiB", "renew") for one in plugin.given)
    assert json.dumps(plugin.begun)


def test_a_vm_that_stays_on_the_host_is_not_passed_over(sxm, plugin):
    """The other host sees its disk: xapi moves such a one without disks, and sxm does not."""
    pool = sxm.pools["paris"]
    add_vm(
        pool,
        by_name(pool, "host", "p1"),
        [add_vdi(pool, by_name(pool, "SR", "shared"), GIB)],
        by_name(pool, "network", "guests"),
        name_label="mail",
        tags=[],
        snapshot_of="OpaqueRef:NULL",
        suspend_VDI="OpaqueRef:NULL",
    )
    words = ("evacuate", "--host", "p1", "--to-host", "p2")
    seen = sxm(*words, "--dry-run")
    assert seen.status == 5 and "not moved: VM mail" in seen.out
    alone = sxm("evacuate", "--vm", "mail", "--to-host", "p2", "--dry-run")
    assert alone.out.startswith("nothing can be moved by this command; what stays behind")
    assert "do: move it without disks: xe vm-migrate uuid=" in seen.out
    assert not sxm(*words, "--dry-run", "--json").document["whole"]
    assert sxm(*words).status == 5 and plugin.begun == []
    seen = sxm(*words, "--skip-refused")
    assert seen.status == 4 and "xe vm-migrate" in seen.out
    assert [name for name, _ in plugin.begun] == ["db", "web"]


def report_of(given):
    """As much of an answer as the name of a page goes by."""
    one = given["migration"]
    return {"vm_name": "db", "migration": one * 8, "report": answers.VERSION}


def test_one_report_is_kept_of_all_its_migrations(sxm, plugin, tmp_path, monkeypatch):
    written = []

    def write(found, path, title=""):
        assert "sxm: writing a report of how it went" in sys.stderr.getvalue(), "first"
        written.append((found, title))
        return Written(path, path[: -len("html")] + "json")

    monkeypatch.setattr(kept, "write", write)
    sxm.answers["report"] = report_of
    seen = sxm(*ARRAY)
    assert seen.status == 0
    ((found, title),) = written
    assert [one["migration"][:2] for one in found] == ["m0", "m1"] and "p1-sr" in title
    page = str(tmp_path / "data" / "sxm" / "reports" / "db-and-1-more-m0m0m0m0.html")
    assert "report: %s" % page in seen.out
    assert sxm(*ARRAY, "--json").document["report"].endswith(".html")
    assert sxm(*ARRAY, "--json", "--no-report").document["report"] == "" and len(written) == 2


@pytest.mark.parametrize("fault", [OSError(28, "No space left"), KeyError("plan")])
def test_a_report_that_fails_is_a_warning(sxm, plugin, monkeypatch, fault):
    def write(*_):
        raise fault

    monkeypatch.setattr(kept, "write", write)
    sxm.answers["report"] = report_of
    seen = sxm(*ARRAY)
    assert seen.status == 0 and "sxm: warning: no report is written" in seen.err
    sxm.answers["report"] = lambda given: dict(report_of(given), report=answers.VERSION + 1)
    seen = sxm(*ARRAY)
    assert seen.status == 0 and "sxm: warning: migration m2 is not in the report" in seen.err
    assert "SXM_OTHER_VERSION" in seen.err and "report:" not in seen.out
    del sxm.answers["report"]
    seen = sxm(*ARRAY)
    assert seen.status == 0 and "sxm: warning: migration m4 is not in the report" in seen.err
    assert "report:" not in seen.out
