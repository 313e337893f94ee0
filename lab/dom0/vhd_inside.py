# SPDX-License-Identifier: LGPL-2.1-only
"""Has the product see where the data is in a VHD of the lab, which has QCOW2 inside
(lab/sm/cowutil.py).

What it reads of real VHDs the unit tests hold against real ones. Runs before the product's driver
on a host (lab.dom0.before).
"""


def install(root):
    """For each run of the driver on the host at `root`."""
    from lab.dom0 import before

    before.install(root, __file__)


def _is_driver():
    with open("/proc/self/cmdline", "rb") as cmdline:
        return any(word.endswith(b"/MirrorSR") for word in cmdline.read().split(b"\0"))


def replace():
    """In this process, and those that it forks."""
    from storage_motion.dom0 import images

    images._READERS["vhd"] = images._READERS["qcow2"]


if __name__.startswith("lab_before.") and _is_driver():
    replace()
