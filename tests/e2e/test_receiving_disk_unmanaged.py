# SPDX-License-Identifier: LGPL-2.1-only
"""A disk that receives is nobody else's: xapi refuses whoever would copy, snapshot, clone, resize,
destroy or attach it, from mid-copy until the VM has it, and everything is as usual when the
migration has ended, however it does.

The worker stands still meanwhile, so nothing depends on how fast the copy is.
"""

import contextlib

import pytest
import XenAPI

from lab.dom0 import breakpoint
from lab.pools.topology import PoolPlan
from tests.e2e.moments import MOMENTS
from tests.e2e.scene import DISKS, MIB, MOVE

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))


def failure(call, *arguments):
    """What xapi refuses a call with."""
    with pytest.raises(XenAPI.Failure) as raised:
        call(*arguments)
    return raised.value.details


@contextlib.contextmanager
def running_vm(pool, host):
    """The ref of another VM, which runs."""
    vm = pool.create_vm("another", [(pool.sr(host.name, "fast"), MIB)], {"writes": 1, "fill": 0.1})
    pool.start_vm(vm, host.name)
    try:
        yield vm
    finally:
        pool.xapi.VM.hard_shutdown(vm)
        own = [pool.xapi.VBD.get_VDI(vbd) for vbd in pool.xapi.VM.get_VBDs(vm)]
        pool.xapi.VM.destroy(vm)
        for vdi in own:
            pool.xapi.VDI.destroy(vdi)


def assert_nobody_gets(pool, vm, vdi):
    """Neither what others do with a VDI, nor a VBD of another VM (a ref), which runs; and a scan
    changes nothing of it."""
    api = pool.xapi
    api.SR.scan(api.VDI.get_SR(vdi))
    for call, more in (
        (api.VDI.copy, (api.VDI.get_SR(vdi),)),
        (api.VDI.snapshot, ({},)),
        (api.VDI.clone, ({},)),
        (api.VDI.resize, (str(2 * DISKS[0]),)),
        (api.VDI.destroy, ()),
    ):
        assert failure(call, vdi, *more) == ["VDI_NOT_MANAGED", vdi]
    vbd = api.VBD.create(
        {
            "VM": vm,
            "VDI": vdi,
            "userdevice": "7",
            "bootable": False,
            "mode": "RO",
            "type": "Disk",
            "empty": False,
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        }
    )
    try:
        for call in (api.VBD.plug, api.VBD.assert_attachable):
            assert failure(call, vbd) == ["VDI_NOT_MANAGED", vbd]
        assert failure(api.VM.clean_reboot, vm) == ["VDI_NOT_MANAGED", vbd]
    finally:
        api.VBD.destroy(vbd)


def receiving(entry):
    """The UUIDs of the new disks, by the journal."""
    return [disk["destination_vdi"] for disk in entry["disks"].values()]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", ["copying", "asked", "open"])
@pytest.mark.parametrize("kind", ["between pools", "within the host"])
def test_while_it_receives(lab, scene, kind, moment):
    if kind == "between pools":
        arguments, there = scene.arguments(), scene.there
    else:
        here = scene.pool.xapi.SR.get_name_label(
            scene.pool.xapi.VDI.get_SR(scene.pool.xapi.VBD.get_VDI(scene.record["VBDs"][0]))
        )
        arguments, there = scene.within("big" if here.endswith("fast") else "fast"), scene.host
    pool = next(pool for pool in lab.pools if there in pool.hosts)
    source = scene.host
    with running_vm(pool, there) as another:
        with breakpoint.held(
            source.root, MOMENTS[moment], lambda: scene.begin(**arguments), scene.journal, MOVE
        ) as migration:
            disks = [
                pool.xapi.VDI.get_by_uuid(uuid) for uuid in receiving(scene.journal(migration))
            ]
            for vdi in disks:
                assert_nobody_gets(pool, another, vdi)
        entry = scene.ended(migration)
        assert entry["state"] == "succeeded", entry["error"]
        scene.host = there
        assert [pool.xapi.VBD.get_VDI(vbd) for vbd in scene.record["VBDs"]] == disks
        assert all(pool.xapi.VDI.get_managed(vdi) for vdi in disks)
    scene.assert_runs()
    scene.assert_nothing_left()


@pytest.mark.timeout(600)
def test_who_has_it_forgotten_ends_the_migration(scene):
    """xapi asks nothing of that. The image is found again, and nothing is left."""
    there = next(pool for pool in scene.lab.pools if scene.there in pool.hosts)
    with breakpoint.held(
        scene.host.root,
        MOMENTS["copying"],
        lambda: scene.begin(**dict(scene.arguments(), **{"retry-limit": "0"})),
        scene.journal,
        MOVE,
    ) as migration:
        for uuid in receiving(scene.journal(migration)):
            there.xapi.VDI.forget(there.xapi.VDI.get_by_uuid(uuid))
    entry = scene.ended(migration)
    assert entry["state"] == "failed" and entry["left"] == [], entry["error"]
    print(entry["error"])
    scene.assert_runs()
    scene.assert_nothing_left()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("end", ["cancelled", "failed", "recovered"])
def test_a_disk_of_the_users_that_was_to_be_filled_is_his_again(scene, end):
    """However it is taken back. One that the migration has made is gone then."""
    there = next(pool for pool in scene.lab.pools if scene.there in pool.hosts)
    own = there.xapi.VDI.create(
        {
            "name_label": "the user's",
            "name_description": "",
            "SR": there.sr(scene.there.name, "fast"),
            "virtual_size": str(DISKS[0]),
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {},
            "xenstore_data": {},
            "sm_config": {},
            "tags": [],
        }
    )
    (vbd,) = scene.record["VBDs"]
    arguments = dict(
        scene.arguments(),
        **{
            "vdi:"
            + scene.pool.xapi.VDI.get_uuid(
                scene.pool.xapi.VBD.get_VDI(vbd)
            ): there.xapi.VDI.get_uuid(own),
            "retry-limit": "0",
        },
    )
    with breakpoint.held(
        scene.host.root, MOMENTS["copying"], lambda: scene.begin(**arguments), scene.journal, MOVE
    ) as migration:
        assert failure(there.xapi.VDI.destroy, own) == ["VDI_NOT_MANAGED", own]
        entry = scene.journal(migration)
        if end == "failed":
            scene.kill(next(iter(entry["disks"].values()))["mover"])
        elif end == "recovered":
            scene.kill(entry["worker"])
    answer = {
        "cancelled": lambda: scene.call("cancel", migration=migration),
        "failed": lambda: scene.ended(migration),
        "recovered": lambda: scene.call("recover", migration=migration)["migrations"][0],
    }[end]()
    assert answer.get("outcome", answer["state"] if "state" in answer else None) in (
        "cancelled",
        "failed",
        "taken back",
    ), answer
    record = there.xapi.VDI.get_record(own)
    assert (
        record["managed"]
        and "sxm_migration" not in record["other_config"]
        and not {"paused", "relinking"} & set(record["sm_config"])
    )
    there.xapi.VDI.destroy(own)
    scene.assert_runs()
    scene.assert_nothing_left()
