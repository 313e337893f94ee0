# SPDX-License-Identifier: LGPL-2.1-only
"""What a person sees of a plan, 80 columns wide, and a program of it."""

import copy
import errno

import pytest

from fake_migration import make_plan
from fake_pool import failure

GIB = 1 << 30
UUID = "0f0e0d0c-0000-4000-8000-00000000000%d"
NAME = "a disk with a name that is much longer than anybody would want to read in one line"


def sr(name, kind, allocation):
    return {"uuid": UUID % 1, "name": name, "type": kind, "allocation": allocation}


PLAN = dict(
    make_plan().to_json(),
    source_host_name="p1",
    destination_host_name="l1",
    master="https://10.1.0.1",
    warnings=["HA of the other pool is off"],
    notes=["what is on network guests goes to the destination's network of that name"],
)
ANSWER = {
    "plan": PLAN,
    "vm": {"uuid": UUID % 0, "name": "web", "power_state": "Running", "host": "p1"},
    "disks": [
        {
            "vdi": UUID % 2,
            "device": "xvda",
            "name": NAME,
            "sr": sr("p1-sr", "ext", "thin"),
            "format": "vhd",
            "size": 10 * GIB,
            "data": 3 * GIB // 2,
            "snapshots": 2,
            "moves": True,
            "destination": dict(
                sr("fast", "lvmoiscsi", "thick"), format="qcow2", fills="", clone_of="", snapshots=2
            ),
        },
        {
            "vdi": UUID % 3,
            "device": "xvdb",
            "name": "",
            "sr": sr("shared", "nfs", "thin"),
            "format": "vhd",
            "size": GIB,
            "data": 0,
            "snapshots": 0,
            "moves": False,
            "destination": None,
        },
    ],
    "vifs": [
        {
            "vif": UUID % 4,
            "device": "0",
            "mac": "aa:bb:cc:00:00:01",
            "network": "guests",
            "destination": {"uuid": UUID % 5, "name": "dmz"},
        }
    ],
    "room": [
        {
            "sr": UUID % 1,
            "name": "fast",
            "type": "lvmoiscsi",
            "destination": True,
            "size": 99 * GIB,
            "free": 50 * GIB,
            "needed": 12 * GIB,
            "stays": 11 * GIB,
            "free_after": 39 * GIB,
        }
    ],
    "verdict": "ok",
    "refused": None,
    "problems": [],
}


@pytest.fixture
def world(sxm):
    sxm.answers.update(migrate=copy.deepcopy(ANSWER), list={"migrations": [], "unreadable": []})
    return sxm


def see(world, *words):
    seen = world("plan", "vm=web", *words)
    assert "\x1b" not in seen.out and max(map(len, seen.out.splitlines())) <= 80
    assert [line for line in seen.out.splitlines() if line.endswith(" ")] == []
    return seen


def test_a_person_sees_all_of_it(world):
    seen = see(world)
    assert (seen.status, seen.err) == (0, "")
    words = " ".join(seen.out.split())
    for part in (
        "web (%s), Running" % (UUID % 0),
        "from host p1 to host l1 of the pool at https://10.1.0.1",
        "xvda " + NAME,
        "size 10.0 GiB, 1.5 GiB of data, 2 snapshots",
        "is in SR p1-sr (ext), vhd, thin goes to SR fast (lvmoiscsi), qcow2, thick",
        "xvdb (no name)",
        "goes to stays where it is",
        "0 aa:bb:cc:00:00:01 guests dmz",
        "fast destination 50.0 GiB 12.0 GiB 39.0 GiB",
        "xapi would do it",
        "unknown: none has succeeded from p1 to l1 yet",
        "Notes - what is on network guests goes to the destination's network of that name",
        "Warnings - HA of the other pool is off",
        "Nothing is wrong. Nothing has been changed.",
    ):
        assert part in words, (part, seen.out)
    ((_, _, given),) = [one for one in world.asked if one[1] == "migrate"]
    assert given == {"vm": "web", "dry-run": "true", "problems": "answer"}


def test_an_estimate_tells_its_basis(world):
    ended = {"state": "succeeded", "source_host": "p1", "destination_host": "l1"}
    world.answers["list"] = {
        "migrations": [
            dict(ended, migration="a"),
            dict(ended, migration="b"),
            dict(ended, migration="failed", state="failed"),
            dict(ended, migration="elsewhere", source_host="p2"),
        ]
    }
    world.answers["status"] = {"bytes_moved": GIB, "started": 100.0, "updated": 110.0}
    words = " ".join(see(world).out.split())
    basis = "(measured: 2 earlier from p1 to l1, 2048 MiB in 20 s, all phases)"
    assert basis in words
    estimates = world("plan", "vm=web", "--json").document["estimates"]
    sent = sum(disk["data"] for disk in PLAN["disks"] + PLAN["history"])
    assert estimates["bytes"] == sent and estimates["seconds"] == pytest.approx(sent * 10 / GIB)
    asked = {given["migration"] for _, name, given in world.asked if name == "status"}
    assert asked == {"a", "b"}


def earlier(world, *moved):
    """Migrations from p1 to l1 that have succeeded, the latest first, with what they moved."""
    known = {"state": "succeeded", "source_host": "p1", "destination_host": "l1"}
    world.answers["list"] = {
        "migrations": [dict(known, migration=str(at)) for at in range(len(moved))]
    }
    world.answers["status"] = lambda given: {
        "bytes_moved": moved[int(given["migration"])],
        "started": 100.0,
        "updated": 110.0,
    }


@pytest.mark.parametrize(
    "moved, basis, looks",
    [
        ([0], "unknown: one has succeeded from p1 to l1, and moved too little to measure by", 1),
        (
            [0, 4096],
            "unknown: 2 have succeeded from p1 to l1, and none of them moved enough to measure by",
            2,
        ),
        (
            [0] * 25,
            "unknown: 25 have succeeded from p1 to l1, and none of the latest 20 moved enough to "
            "measure by",
            20,
        ),
        ([0] * 6 + [GIB] * 2, "measured: 2 earlier from p1 to l1, 2048 MiB in 20 s", 8),
        ([0] + [GIB] * 9, "measured: 5 earlier from p1 to l1, 5120 MiB in 50 s", 6),
    ],
)
def test_moves_of_too_little_are_no_measure_and_are_told_of(world, moved, basis, looks):
    earlier(world, *moved)
    assert basis in " ".join(see(world).out.split())
    assert len([name for _, name, _ in world.asked if name == "status"]) == looks


@pytest.mark.parametrize("function", ["list", "status"])
@pytest.mark.parametrize(
    "error, said",
    [
        (failure("XENAPI_PLUGIN_FAILURE", "f", "Odd"), "XENAPI_PLUGIN_FAILURE: f"),
        (OSError(errno.ETIMEDOUT, "Connection timed out"), "Connection timed out"),
        (ValueError("no JSON"), "not a xapi: ValueError"),
    ],
)
def test_a_plan_does_not_fail_by_its_estimate(world, function, error, said):
    def fail(_):
        raise error

    earlier(world, GIB)
    world.answers[function] = fail
    seen = see(world)
    told = "unknown: earlier ones from p1 to l1 cannot be looked at: " + said
    assert seen.status == 0 and told in " ".join(seen.out.split())
    assert world("plan", "vm=web", "--json").document["estimates"]["seconds"] is None


def test_what_could_be_looked_at_is_a_measure(world):
    earlier(world, GIB, GIB)
    answer = world.answers["status"]

    def status(given):
        if given["migration"] == "1":
            raise failure("SXM_NO_SUCH_MIGRATION", "1")
        return answer(given)

    world.answers["status"] = status
    assert "measured: 1 earlier from p1 to l1" in " ".join(see(world).out.split())


def test_all_that_is_wrong_is_listed_with_what_is_known(world):
    world.answers["migrate"].update(
        plan=None, room=[], verdict="not asked", problems=["vdi:1: wrong; right", "vm: no"]
    )
    seen = see(world)
    assert seen.status == 5
    assert "Wrong (2): nothing has been changed\n  - vdi:1: wrong; right\n  - vm: no" in seen.out
    assert "xvda" in seen.out and "not asked" in seen.out
    document = world("plan", "vm=web", "--json")
    assert document.status == 5 and document.document["problems"][1] == "vm: no"


def test_xapis_refusal_is_one_of_them(world):
    refused = ["SXM_REFUSED", "host l1 does not take VM web", "VM_X", "shut it down"]
    world.answers["migrate"].update(verdict="refused", refused=refused)
    seen = see(world)
    assert seen.status == 5 and "xapi would refuse it" in seen.out
    assert "- host l1 does not take VM web: VM_X: shut it down" in seen.out


def test_migrate_shows_the_same_with_dry_run(world):
    plan = see(world).out
    assert world("migrate", "vm=web", "--dry-run").out == plan
    assert world("migrate", "vm=web", "dry-run=true").out == plan


def test_the_data_says_what_it_goes_by(world):
    """A scan just now; or an earlier one, also where there is no plan to estimate."""
    assert "by a scan of their SRs just now" in " ".join(world("plan", "vm=web").out.split())
    world.answers["migrate"]["scanned"] = False
    assert "at the last scan of their SRs" in " ".join(world("plan", "vm=web").out.split())
    world.answers["migrate"].update(plan=None, problems=["vdi:x: is paused"], verdict="not asked")
    assert "data: what was allocated" in world("plan", "vm=web").out


def test_a_volume_that_no_mirror_is_for_is_sent_as_a_whole(world):
    world.answers["migrate"]["disks"][0]["sr"]["allocation"] = "thick"
    assert "no mirror is for" not in " ".join(world("plan", "vm=web").out.split())
    world.answers["migrate"]["plan"]["live"] = False
    assert "of a volume on LVM that no mirror is for, all" in " ".join(
        world("plan", "vm=web").out.split()
    )
