"""Gives the product's worker the lab's patience on a machine that is many times slower than a host: $SXM_LAB_PATIENCE times.

Runs before the product on a host (lab.dom0.before). What is stretched: how long a mirrored write may take before its mirror counts
as broken, and how often the movers are asked how far they are, which costs an emulated processor more than what they do.
"""
import os

WORKER = "storage_motion.control.worker"


def install(root):
    """Have each worker that starts on the host at `root` be so patient."""
    from lab.dom0 import before
    before.install(root, __file__)


def _is_worker():
    with open("/proc/self/cmdline", "rb") as cmdline:
        return WORKER in cmdline.read().decode("utf-8", "replace").split("\0")


def _stretch(factor):
    from storage_motion.control import movers
    movers.STALL_BOUND *= factor  # before anybody else imports it by its name
    from storage_motion.control import sync
    sync.POLL *= factor


if __name__.startswith("lab_before.") and _is_worker():
    _stretch(float(os.environ.get("SXM_LAB_PATIENCE", "1")))
