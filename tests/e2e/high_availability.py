# SPDX-License-Identifier: LGPL-2.1-only
"""High availability (HA) in the pools of a lab, and a VM that it protects."""

import os

from lab.xapi import ha

LOOK = 0.2
"""Seconds after which it looks again, so that it sees what passes quickly; a real one does so each
20 s (lab/xapi/ha.py)."""
ORDER = {"order": "7", "start_delay": "3", "shutdown_delay": "2"}


def enable(lab):
    """Enable it in each pool."""
    for pool in lab.pools:
        directory = pool.master.root + "/etc/xapi.conf.d"
        os.makedirs(directory, exist_ok=True)
        with open(directory + "/ha.conf", "w") as file:
            file.write("%s = %g\n" % (ha.INTERVAL, LOOK))
        this = pool.xapi.pool.get_all()[0]
        pool.xapi.pool.add_to_other_config(this, ha.SWITCH, "on")
        # its SRs are local, and its network has no PIF
        pool.xapi.pool.set_ha_allow_overcommit(this, True)
        pool.xapi.pool.sync_database()


def protect(scene):
    """Have it restart the VM, on disk."""
    api = scene.pool.xapi
    vm = api.VM.get_by_uuid(scene.uuid)
    api.VM.set_ha_restart_priority(vm, "restart")
    for field, value in ORDER.items():
        getattr(api.VM, "set_" + field)(vm, value)
    api.pool.sync_database()


def protection(pool, uuid):
    """What it is to do with a VM: (restart priority, whether it is to run)."""
    record = pool.xapi.VM.get_record(pool.xapi.VM.get_by_uuid(uuid))
    return record["ha_restart_priority"], record["ha_always_run"]


def assert_protected(scene, priority="restart", runs=True):
    """The VM is protected as `protect` had it."""
    record = scene.record
    assert (record["ha_restart_priority"], record["ha_always_run"]) == (
        priority,
        runs and priority == "restart",
    )
    assert {field: record[field] for field in ORDER} == ORDER
