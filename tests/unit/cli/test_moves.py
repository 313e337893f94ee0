# SPDX-License-Identifier: LGPL-2.1-only
"""What `sxm migrate` asks the plugin for, by friendly options and by xe's words; and what a person
sees of it."""

import pytest

from fake_pool import add_vdi, add_vm, by_name, uuid_of
from storage_motion.cli import following
from storage_motion.cli.report import kept

ENDED = {
    "vm_name": "web",
    "phase": "end",
    "doing": "Ending",
    "disks": [],
    "state": "succeeded",
    "error": None,
    "alive": True,
    "bytes_moved": 0,
    "bytes_to_move": 0,
}
ID = "0f0e0d0c-0000-4000-8000-000000000001"


@pytest.fixture
def world(sxm, monkeypatch):
    monkeypatch.setattr(kept, "keep", lambda pool, migrations, out: None)
    paris = sxm.pools["paris"]
    sr = by_name(paris, "SR", "p1-sr")
    disks = [add_vdi(paris, sr, name_label="root"), add_vdi(paris, sr, name_label="data")]
    add_vm(paris, by_name(paris, "host", "p1"), disks, by_name(paris, "network", "guests"))
    sxm.answers.update(migrate={"migration": ID, "task": "t"}, status=dict(ENDED))
    return sxm


def uuid(world, pool, class_name, name):
    return uuid_of(world.pools[pool], class_name, by_name(world.pools[pool], class_name, name))


def given(world):
    """The arguments of the one call of migrate."""
    ((_, _, found),) = [one for one in world.asked if one[1] == "migrate"]
    return found


def test_names_become_uuids(world):
    words = ["--vm", "web", "--to-host", "p2", "--to-sr", "shared", "--disk", "xvdb=p2-sr"]
    seen = world("migrate", *words, "--bandwidth", "100MiB", "--force")
    assert (seen.status, seen.err) == (0, "")
    assert seen.out.splitlines() == ["migration " + ID, "web: succeeded"]
    assert given(world) == {
        "vm": uuid(world, "paris", "VM", "web"),
        "host-uuid": uuid(world, "paris", "host", "p2"),
        "destination-sr-uuid": uuid(world, "paris", "SR", "shared"),
        "vdi:" + uuid(world, "paris", "VDI", "data"): uuid(world, "paris", "SR", "p2-sr"),
        "bandwidth": "100MiB",
        "force": "true",
        "wait": "false",
    }


def test_to_another_pool_with_its_password_and_networks(world):
    seen = world("migrate", "--vm", "web", "--to-pool", "lyon", "--network", "guests=management")
    assert seen.status == 0 and "secret" not in seen.out + seen.err
    paris = world.pools["paris"]
    (vif,) = [one["uuid"] for one in paris.tables["VIF"].values()]
    asked = given(world)
    assert asked["vif:" + vif] == uuid(world, "lyon", "network", "management")
    assert (asked["remote-master"], asked["remote-username"]) == ("10.1.0.1", "admin")
    assert asked["remote-password"] == "secret of lyon"
    assert {name for name, _, _ in world.asked} == {"paris"}


def test_as_xe_has_it(world):
    assert world("migrate", "vm=web", "destination-sr-uuid=x", "live=true").status == 0
    assert given(world) == {
        "vm": "web",
        "destination-sr-uuid": "x",
        "live": "true",
        "wait": "false",
    }


@pytest.mark.parametrize("words", [["--no-wait"], ["wait=false"]])
def test_not_to_wait(world, words):
    assert world("migrate", "vm=web", *words).out == "migration %s\n" % ID
    assert world("migrate", "vm=web", "--json", *words).document == {"migration": ID, "task": "t"}
    assert {one[1] for one in world.asked} == {"migrate"}


def test_a_copy_is_asked_for_and_told(world):
    world.answers["status"] = dict(ENDED, copy=True, new_vm="n", warnings=["no HA"])
    seen = world("migrate", "vm=web", "--copy")
    assert given(world)["copy"] == "true"
    assert "copy " + ID in seen.out and "the copy is VM n" in seen.out
    assert seen.err == "sxm: warning: no HA\n"


def test_how_it_failed_is_told(world, monkeypatch):
    monkeypatch.setattr(following, "POLL", 0)
    answers = [dict(ENDED, state="running"), dict(ENDED, state="failed", error=["SXM_X", "why"])]
    world.answers["status"] = lambda _: answers.pop(0)
    seen = world("migrate", "vm=web")
    assert seen.status == 1 and seen.err == "sxm: SXM_X: why\n"


@pytest.mark.parametrize(
    "words, told",
    [
        (["vm=a", "nonsense"], "not name=value: nonsense"),
        (["--vm", "web", "vm=web"], "--vm is given beside vm= or uuid="),
        (["--to-sr", "shared"], "which VM? give --vm NAME"),
        (["vm=web", "remote-password=hush"], "remote-password is no argument here"),
        (["--vm", "web", "--disk", "xvda"], "--disk xvda: not DISK=SR"),
        (["--vm", "wbe"], "there is no VM 'wbe'; did you mean"),
        (["--vm", "web", "--network", "lan=guests"], "--network is for --to-pool"),
        (["--vm", "wbe"], "--vm, in pool paris: there is no VM 'wbe'"),
        (["--vm", "web", "--to-sr", "x"], "--to-sr, in pool paris: there is no SR 'x'"),
        (["--vm", "web", "--to-host", "x"], "--to-host, in pool paris: there is no host 'x'"),
        (["--vm", "web", "--disk", "hda=shared"], "--disk, in pool paris: there is no disk 'hda'"),
        (["--vm", "web", "--disk", "xvda=x"], "--disk, in pool paris: there is no SR 'x'"),
        (["--vm", "web", "--data-network", "x"], "--data-network, in pool paris: there is no net"),
        (["--vm", "web", "--remote-password-file", "x"], "is for --to-pool or remote-master=,"),
        (
            ["--vm", "web", "--to-pool", "lyon", "--to-sr", "p1-sr"],
            "--to-sr, in pool lyon: there is no SR 'p1-sr'",
        ),
        (
            ["--vm", "web", "--to-pool", "lyon", "--network", "lan=guests"],
            "--network, in pool paris: there is no interface 'lan' of VM web",
        ),
        (
            ["--vm", "web", "--to-pool", "lyon", "--network", "guests=x"],
            "--network, in pool lyon: there is no network 'x'",
        ),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_asked(world, words, told):
    seen = world("migrate", *words)
    assert seen.status == 2 and told in seen.err and "hush" not in seen.err
    assert world.asked == []


def test_a_name_may_not_command_the_terminal(world):
    paris = world.pools["paris"]
    paris.tables["VM"][by_name(paris, "VM", "web")]["name_label"] = "web\x1b[2J"
    seen = world("migrate", "--vm", "web")
    assert seen.status == 2 and "\x1b" not in seen.err and "web?[2J" in seen.err


def test_two_networks_of_one_name_are_told_apart(world):
    paris = world.pools["paris"]
    record = dict(paris.tables["network"][by_name(paris, "network", "guests")])
    paris.add("network", **dict(record, uuid="0f0e0d0c-1111-4000-8000-000000000001", bridge="x"))
    words = ["migrate", "--vm", "web", "--to-pool", "lyon", "--network"]
    seen = world(*words, "guests=management")
    assert seen.status == 2 and "2 networks are called 'guests'" in seen.err
    assert world.asked == []
    assert world(*words, "%s=management" % record["uuid"]).status == 0
