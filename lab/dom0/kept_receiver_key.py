# SPDX-License-Identifier: LGPL-2.1-only
"""Keeps the private key that a receiver of a host removes at once: what a test that looks for it
everywhere needs.

Runs before the product on a host (lab.dom0.before) while a test asks for it. `/etc/lab-kept-key`
has the path that the key is linked to, outside of the host, before the receiver unlinks it; its
mode is that of the receiver's own.
"""

import os

PLACE = "/etc/lab-kept-key"
RECEIVER = "storage_motion.migration.receiver_process"
KEY = "key.pem"


def begin(root, path):
    """Have the next receiver on the host at `root` leave its key at `path`, on the same file
    system, where nothing is yet."""
    from lab.dom0 import before

    before.install(root, __file__, PLACE, path)


def end(root):
    """Receivers that start from now on leave nothing."""
    from lab.dom0 import before

    before.remove(root, __file__, PLACE)


def _link_to(kept):
    unlink = os.unlink

    def linking(path, *args, **kwargs):
        if os.path.basename(path) == KEY and not os.path.exists(kept):
            os.link(path, kept)
        unlink(path, *args, **kwargs)

    os.unlink = linking


if __name__.startswith("lab_before."):
    from sitecustomize import runs, setting

    _kept = setting(PLACE)
    if _kept and runs(RECEIVER):
        _link_to(_kept)
