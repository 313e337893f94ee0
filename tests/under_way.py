# SPDX-License-Identifier: LGPL-2.1-only
"""Ends what a test that failed has left under way, so that the next test stands for itself."""

import glob
import json
import os

import XenAPI

from tests.eventually import eventually

BOUND = 600.0
"""Seconds for a migration to end that goes on."""
POLL = 0.2


def end_migrations(lab, vm=None, bound=BOUND):
    """Bring the migrations of a VM (a uuid), or all, to their ends: cancelled, or finished if it is
    too late for that, or recovered.

    Raises AssertionError if one still runs after `bound` seconds."""
    for pool in lab.pools:
        for host in pool.hosts:
            for path in _running(host, vm):
                _end(pool, host, path, bound)


def _running(host, vm):
    """The paths of the journals of migrations from a host that have not ended."""
    paths = [
        path
        for path in glob.glob(host.root + "/var/lib/sxm/*.json")
        if not os.path.basename(path).startswith("receive-")
    ]
    entries = [(path, _read(path)) for path in paths]
    return [
        path
        for path, entry in entries
        if entry["state"] == "running" and vm in (None, entry["plan"]["vm"])
    ]


def _end(pool, host, path, bound):
    migration = os.path.basename(path)[: -len(".json")]
    for function in ("cancel", "recover"):
        try:
            print(
                migration,
                function,
                pool.xapi.host.call_plugin(
                    pool.host_ref(host.name), "sxm.py", function, {"migration": migration}
                ),
            )
        except XenAPI.Failure as failure:
            print(migration, function, failure)
        if _read(path)["state"] != "running":
            return
    eventually(
        lambda: _read(path)["state"] != "running",
        "the end of migration %s" % migration,
        bound,
        poll=POLL,
    )


def _read(path):
    with open(path) as stream:
        return json.load(stream)
