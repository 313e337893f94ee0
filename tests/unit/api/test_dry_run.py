# SPDX-License-Identifier: LGPL-2.1-only
"""What a dry run answers besides the plan: disks, interfaces, room, and what is wrong."""

import pytest

from api_world import pool  # noqa: F401
from fake_pool import GIB, by_name, uuid_of
from plan_world import World
from storage_motion.api import migrate
from storage_motion.errors import BadArguments, Refused


@pytest.fixture
def world(pool, monkeypatch):
    found = World()
    host = uuid_of(found.a, "host", by_name(found.a, "host", "a1"))
    monkeypatch.setattr(migrate.inventory, "host_uuid", lambda: host)
    monkeypatch.setattr(migrate.installed, "require", lambda *_: {})
    monkeypatch.setattr(migrate.xapi_verdict, "ask", lambda *_: None)
    monkeypatch.setattr(migrate.up_to_date, "scan", lambda *_: [])
    return found


def ask(world, **more):
    shared = uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))
    given = {"vm": world.vm["uuid"], "destination-sr-uuid": shared, "dry-run": "true"}
    return migrate.migrate(world.a, dict(given, **more))


def test_where_each_disk_lies_and_what_it_will_be(world):
    world.a.tables["SR"][by_name(world.a, "SR", "shared")]["type"] = "lvmoiscsi"
    answer = ask(world)
    disk = answer["disks"][0]
    assert (disk["device"], disk["size"], disk["data"]) == ("xvda", 2 * GIB, GIB)
    assert (disk["sr"]["name"], disk["sr"]["allocation"]) == ("a1-sr", "thin")
    assert disk["format"] == "vhd"
    there = disk["destination"]
    assert (there["name"], there["type"], there["allocation"]) == ("shared", "lvmoiscsi", "thick")
    assert there["format"] == "vhd" and disk["moves"]
    assert (answer["verdict"], answer["problems"], answer["refused"]) == ("ok", [], None)
    assert answer["vifs"][0]["network"] == answer["vifs"][0]["destination"]["name"]


def test_the_room_now_and_after(world):
    shared, own = ask(world)["room"]
    assert (shared["name"], shared["destination"], shared["free"]) == ("shared", True, 100 * GIB)
    assert 0 < shared["stays"] <= shared["needed"]
    assert shared["free_after"] == shared["free"] - shared["stays"]
    assert (own["name"], own["destination"], own["stays"]) == ("a1-sr", False, 0)


def test_what_is_wrong_is_a_failure_unless_it_is_to_be_answered(world):
    wrong = {"vdi:" + world.vm["uuid"]: world.vm["uuid"]}
    with pytest.raises(BadArguments):
        ask(world, **wrong)
    answer = ask(world, problems="answer", **wrong)
    assert answer["plan"] is None and answer["verdict"] == "not asked"
    assert "is not a disk of VM" in answer["problems"][0]
    assert [disk["device"] for disk in answer["disks"]][:1] == ["xvda"]
    assert answer["disks"][0]["destination"] is None and answer["disks"][0]["moves"] is None


def test_so_is_xapis_refusal(world, monkeypatch):
    def refuse(*_):
        raise Refused("host a1 does not take VM web", "VM_IS_USING_NESTED_VIRT", "shut it down")

    monkeypatch.setattr(migrate.xapi_verdict, "ask", refuse)
    with pytest.raises(Refused):
        ask(world)
    answer = ask(world, problems="answer")
    assert answer["verdict"] == "refused" and answer["refused"][0] == "SXM_REFUSED"
    assert answer["plan"]["vm"] == world.vm["uuid"]


def test_a_vm_that_is_not_there(world):
    answer = ask(world, problems="answer", vm="nobody")
    assert answer["vm"] is None and answer["disks"] == [] and "nobody" in answer["problems"][0]


def test_problems_are_for_a_dry_run(world):
    with pytest.raises(BadArguments, match="is for a dry run"):
        ask(world, problems="answer", **{"dry-run": "false"})


def test_the_srs_are_scanned_unless_it_is_said_that_they_were(world, monkeypatch):
    scans = []
    monkeypatch.setattr(migrate.up_to_date, "scan", lambda *given: scans.append(given) or [])
    assert ask(world)["scanned"] and len(scans) == 1
    assert not ask(world, scan="false")["scanned"] and len(scans) == 1
    with pytest.raises(BadArguments, match="scan: is for a dry run"):
        ask(world, scan="false", **{"dry-run": "false"})
    monkeypatch.setattr(migrate.up_to_date, "scan", lambda *_: ["it is busy"])
    assert not ask(world)["scanned"], "as it could not be"


def test_data_is_what_is_in_the_volume(world, monkeypatch):
    """As the plan has it, and not xapi's figure, which is the volume's size."""
    monkeypatch.setattr(
        migrate.room,
        "data_ends",
        lambda session, source, plan: dict.fromkeys((disk.key for disk in plan.disks), 5 << 20),
    )
    answer = ask(world)
    assert [disk["data"] for disk in answer["disks"]] == [5 << 20, 5 << 20]
    assert [disk["data"] for disk in answer["plan"]["disks"]] == [5 << 20, 5 << 20]
