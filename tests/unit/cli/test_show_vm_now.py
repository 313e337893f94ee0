# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm show` of a migration that has failed or was cancelled says where the VM is now, and what to
do."""

import pytest

from storage_motion.cli import vm_now

HERE = {"here": True, "power_state": "Running", "host": "a1", "disks": "old"}
CANCELLED = {
    "migration": "m",
    "kind": "cross-pool",
    "copy": False,
    "committed": False,
    "phases": ["claim", "sync", "move"],
    "error": ["SXM_CANCELLED", "m"],
    "left": [],
    "destination_host": "b1",
    "destination_master": "https://10.1.0.1",
    "vm_now": HERE,
}
HALTED = dict(HERE, power_state="Halted", host="")
LEFT = "something is left, see below: put that right, and do `sxm recover m`"
NOTHING_LEFT = "nothing of the move is left"


@pytest.mark.parametrize(
    "fields, said",
    [
        ({}, "runs on a1, in pool paris, with its old disks; " + NOTHING_LEFT),
        ({"left": ["a VDI"]}, "runs on a1, in pool paris, with its old disks; " + LEFT),
        (
            {"vm_now": HALTED},
            "is halted, in pool paris, with its old disks, and ran before: start it; "
            + NOTHING_LEFT,
        ),
        (
            {"vm_now": HALTED, "phases": ["claim", "sync", "hand-over"]},
            "is halted, in pool paris, with its old disks; " + NOTHING_LEFT,
        ),
        (
            {"kind": "in-pool", "committed": True, "vm_now": dict(HERE, disks="new")},
            "runs on a1, in pool paris, with its new disks; " + NOTHING_LEFT,
        ),
        (
            {"committed": True, "error": ["SXM_NOT_CLEANED_UP", "x"], "left": ["x"]},
            "has arrived on b1, in the pool at https://10.1.0.1, with its new disks; " + LEFT,
        ),
        (
            {"committed": True, "error": ["SXM_ARRIVED_HALTED", "v"]},
            "has arrived on b1, in the pool at https://10.1.0.1, with its new disks, halted: "
            "start it there; " + NOTHING_LEFT,
        ),
        (
            {"vm_now": dict(HERE, here=False, power_state="", host="", disks="")},
            "no more in pool paris: somebody has moved or removed it since; " + NOTHING_LEFT,
        ),
        (
            {"error": ["SXM_UNDECIDED", "x"], "left": ["undecided"]},
            "not known: start it on neither side, and do `sxm recover m`",
        ),
    ],
)
def test_one_line_says_where_it_is_and_what_to_do(fields, said):
    assert vm_now.told(dict(CANCELLED, **fields), "paris") == said


@pytest.mark.parametrize("told", [{"vm_now": HERE}, {"vm_now": None}, {}])
def test_it_is_shown_where_the_plugin_tells_it(sxm, told):
    known = {name: value for name, value in CANCELLED.items() if name != "vm_now"}
    shown = dict(known, vm="v", vm_name="web", source_host="a1", state="cancelled", phase="sync")
    shown.update(doing="copying", bytes_moved=1, bytes_to_move=2, started=0.0, updated=1.0)
    shown.update(downtime=None, new_vm="", disks=[], warnings=[], notes=[])
    sxm.answers["status"] = dict(shown, **told)
    words = " ".join(sxm("show", "web").out.split())
    line = "VM now runs on a1, in pool paris, with its old disks; " + NOTHING_LEFT
    assert (line in words) is bool(told.get("vm_now"))
