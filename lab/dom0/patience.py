"""Gives the product's worker the lab's patience on a machine that is many times slower than a host: $SXM_LAB_PATIENCE times.

Runs before the product on a host (lab.dom0.before). What is stretched: how long a mirrored write may take before its mirror counts
as broken, how long SM and the start of a process may take, and how often movers and xenopsd are asked how far they are, which costs
an emulated processor more than what they do.
"""
import importlib
import os

PLACE = "/etc/lab-patience"
WORKER = "storage_motion.control.worker"
STRETCHED = (
    ("storage_motion.control.movers", ("STALL_BOUND", "READY_TIMEOUT", "ANSWER_TIMEOUT")),  # first: sync imports the bound by its name
    ("storage_motion.control.sync", ("POLL", "SNAPSHOT_TIMEOUT", "SM_TIMEOUT")),
    ("storage_motion.control.move", ("POLL", "COMPLETE_TIMEOUT")),
    ("storage_motion.control.gate", ("SETTLE_TIMEOUT",)),
    ("storage_motion.control.bar", ("STAT_TIMEOUT",)),
    ("storage_motion.dom0.launch", ("START_TIMEOUT",)),
)


def install(root):
    """Have each worker that starts on the host at `root` be so patient."""
    from lab import patience
    from lab.dom0 import before
    # xapi runs its plugins in an environment of their own: a variable would not reach the worker
    with open(root + PLACE, "w") as stream:
        stream.write(str(patience.TIMES))
    before.install(root, __file__)


def _stretch(factor):
    for module, names in STRETCHED:
        loaded = importlib.import_module(module)
        for name in names:
            setattr(loaded, name, getattr(loaded, name) * factor)


if __name__.startswith("lab_before."):
    from sitecustomize import runs
    if runs(WORKER):
        with open(os.environ["SXM_ROOT"] + PLACE) as _stream:
            _stretch(float(_stream.read()))
