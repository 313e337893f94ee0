# SPDX-License-Identifier: LGPL-2.1-only
"""A VM whose disk has changed block tracking."""

import contextlib
import json
import os
import re
import subprocess

from lab.blktap import reply

TAP_CTL = 30.0


@contextlib.contextmanager
def by_others(scene):
    """SM pokes no tapdisk that it pauses, and would stand there for minutes under I/O. The product
    does poke."""
    root = scene.host.root
    reply.choose(root, "prompt")
    try:
        yield
    finally:
        reply.choose(root, None)


def vdi_of(scene):
    """The ref of its only disk."""
    (vbd,) = scene.record["VBDs"]
    return scene.pool.xapi.VBD.get_VDI(vbd)


def place(scene):
    """(SR's UUID, VDI's UUID) of the disk."""
    api, vdi = scene.pool.xapi, vdi_of(scene)
    return api.SR.get_uuid(api.VDI.get_SR(vdi)), api.VDI.get_uuid(vdi)


def layers(scene):
    """What the guest's tapdisk has in its chain, from the top."""
    link = os.readlink("%s/run/blktap-control/nbd/%s/%s" % ((scene.host.root,) + place(scene)))
    pid, minor = re.search(r"nbd(\d+)\.(\d+)$", link).groups()
    shown = subprocess.run(
        [scene.host.root + "/usr/sbin/tap-ctl", "stats", "-p", pid, "-m", minor],
        stdout=subprocess.PIPE,
        timeout=TAP_CTL,
        check=True,
    ).stdout
    return [image["driver"]["name"] for image in json.loads(shown)["images"]]


def assert_tracked(scene):
    """By xapi, SM and the guest's tapdisk alike."""
    log = "%s/run/sr-mount/%s/%s.cbtlog" % ((scene.host.root,) + place(scene))
    assert scene.pool.xapi.VDI.get_cbt_enabled(vdi_of(scene)) and os.path.exists(log)
    assert layers(scene)[0] == "log"
    assert "paused" not in scene.pool.xapi.VDI.get_sm_config(vdi_of(scene))
    scene.wait_for_writes(20)
