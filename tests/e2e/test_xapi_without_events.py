# SPDX-License-Identifier: LGPL-2.1-only
"""A xapi that hears no event of its xenopsd. The source's is killed in mid-move; at its start it
finds the VM's temporary id in xenopsd, and fails to end what xenopsd ends by itself: it hears
nothing any more, until it is started again (lab/xapi/startup.py). The VM arrives all the same. Its
record goes at once where the host is its pool's master; else when the toolstack is restarted, as
the user is told."""

import pytest

from lab.pools.topology import PoolPlan
from storage_motion.xapi import xenops
from tests.e2e.collector import stopped
from tests.e2e.moments import MOMENTS
from tests.e2e.scene import Scene
from tests.eventually import eventually

PLAN = (PoolPlan("A", ("a1", "a2"), False), PoolPlan("B", ("b1",), False))
ENDS, DEAF = (
    "is known to xenopsd but isn't supposed to be: terminating",
    "task [resynchronising VM state] exception",
)
PATIENCE = 60.0


def restart(scene, host):
    host.kill("xapi")
    host.start_xapi()
    for pool in scene.lab.pools:
        pool.forget_session()


def wait_for_log(host, text, seen):
    """Until the xapi of a host has said it; `seen`: bytes of its log that are not looked at."""
    eventually(lambda: text in log_of(host)[seen:], "%r in the log" % text, PATIENCE)


def renamed(scene):
    """Until xenopsd has given the VM its temporary id."""
    eventually(
        lambda: (
            xenops.leaving(scene.uuid)
            in [metadata["id"] for metadata, _ in scene.host.xenopsd("VM.list")]
        ),
        "its temporary id",
        PATIENCE,
    )


def log_of(host):
    with open(host.root + "/var/log/xensource.log", "rb") as stream:
        return stream.read().decode(errors="replace")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("home", ["a1", "a2"], ids=["master", "member"])
def test_a_move_from_a_host_whose_xapi_hears_nothing(lab, home):
    scene = Scene(lab, home=home)
    source = scene.host
    with stopped(scene, MOMENTS["locked"]) as migration:
        renamed(scene)
        scene.pool.xapi.pool.sync_database()
        keeper = lab.host("a1")  # the master does a member's resynchronisation, and has its log
        seen = len(log_of(keeper))
        restart(scene, source)
        wait_for_log(keeper, ENDS, seen)
    entry = scene.ended(migration)
    wait_for_log(keeper, DEAF, seen)
    assert source.is_deaf
    restart(scene, source)
    if home == "a1":
        assert entry["state"] == "succeeded", entry["error"]
    else:
        assert entry["error"][0] == "SXM_NOT_CLEANED_UP", entry["error"]
        assert any(
            "restart the toolstack of that host, then recover" in text for text in entry["left"]
        ), entry["left"]
        given = scene.credentials()
        (answer,) = scene.call("recover", migration=migration, **given)["migrations"]
        assert (answer["outcome"], answer["left"]) == ("moved", []), answer
    scene.host = scene.there
    scene.assert_runs()
    scene.assert_nothing_left()
    scene.pool.xapi.VM.hard_shutdown(scene.pool.xapi.VM.get_by_uuid(scene.uuid))
