# SPDX-License-Identifier: LGPL-2.1-only
"""Gives the product's worker the lab's patience on a machine that is many times slower than a host:
$SXM_LAB_PATIENCE times.

Runs before the product on a host (lab.dom0.before). What is stretched: how long a mirrored write
may take before its mirror counts as broken, how long SM and the start of a process may take, and
how often movers and xenopsd are asked how far they are, which costs an emulated processor more than
what they do.
"""

import importlib

PLACE = "/etc/lab-patience"
WORKER = "storage_motion.migration.worker"
STRETCHED = (
    # first: mirror_health imports the bound by its name
    ("storage_motion.migration.mover_handle", ("STALL_BOUND", "READY_TIMEOUT", "ANSWER_TIMEOUT")),
    ("storage_motion.migration.mirror_health", ("POLL",)),
    ("storage_motion.migration.phases.sync", ("POLL", "SNAPSHOT_TIMEOUT", "SM_TIMEOUT")),
    ("storage_motion.migration.move_watch", ("POLL",)),
    ("storage_motion.migration.phases.complete", ("COMPLETE_TIMEOUT",)),
    ("storage_motion.switch.gate", ("SETTLE_TIMEOUT",)),
    ("storage_motion.switch.source_lock", ("STAT_TIMEOUT",)),
    ("storage_motion.dom0.launch", ("START_TIMEOUT",)),
)


def install(root):
    """Have each worker that starts on the host at `root` be so patient."""
    from lab import patience
    from lab.dom0 import before

    # xapi runs its plugins in an environment of their own: a variable would not reach the worker
    before.install(root, __file__, PLACE, str(patience.TIMES))


def _stretch(factor):
    for module, names in STRETCHED:
        loaded = importlib.import_module(module)
        for name in names:
            setattr(loaded, name, getattr(loaded, name) * factor)


if __name__.startswith("lab_before."):
    from sitecustomize import runs, setting

    if runs(WORKER):
        _stretch(float(setting(PLACE)))
