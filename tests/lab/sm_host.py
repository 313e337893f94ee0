# SPDX-License-Identifier: LGPL-2.1-only
"""A pool of one host, for the tests of sm and MirrorSR: its drivers are run as the product runs
them."""

import contextlib
import os
import subprocess
import sys

import pytest

from lab.pools import topology
from lab.pools.lab import Lab
from lab.pools.roots import REPOSITORY
from storage_motion.dom0 import tapctl
from storage_motion.sm import smapi
from tests.eventually import eventually

PLAN = (topology.PoolPlan("A", ("a1",), False),)
SIZE = 64 << 20
CONNECT_BOUND = 20.0  # seconds

# What dom0 has of sm and blktap, and its Python.
_PYTHON36 = os.path.join(REPOSITORY, ".venv36/bin/python")
PYTHON36 = _PYTHON36 if os.path.exists(_PYTHON36) else sys.executable
RELEASES = [("upstream", sys.executable), ("xcp-ng-8.3", PYTHON36)]


class SmHost(object):
    """The host: `xapi` its XenAPI, `root` its root, `fast` and `big` its two SRs (refs)."""

    def __init__(self, lab):
        pool = lab.pools[0]
        self.root = pool.hosts[0].root
        self.session = pool.session()
        self.xapi = self.session.xenapi
        self.fast, self.big = pool.sr("a1", "fast"), pool.sr("a1", "big")
        self.ref = pool.host_ref("a1")
        self.pool = pool

    def create(self, sr, name="disk", size=SIZE):
        """A VDI; its ref."""
        return self.xapi.VDI.create(
            {
                "SR": sr,
                "virtual_size": str(size),
                "type": "user",
                "name_label": name,
                "name_description": "",
                "sharable": False,
                "read_only": False,
                "other_config": {},
                "tags": [],
                "xenstore_data": {},
                "sm_config": {},
            }
        )

    def call(self, vdi, command, *args, **options):
        """Run a driver's command on a VDI."""
        return smapi.call(
            self.session, self.xapi.VDI.get_SR(vdi), command, vdi_ref=vdi, args=args, **options
        )

    @contextlib.contextmanager
    def session_of_a_driver(self, sr):
        """With the rights that xapi gives the session of a driver of this SR, and no other: to set
        what only SM may."""
        self.xapi.session.add_to_other_config(self.session.handle, "_sm_session", sr)
        try:
            yield
        finally:
            self.xapi.session.remove_from_other_config(self.session.handle, "_sm_session")

    def activate(self, vdi, writable="true"):
        """Attach and activate it, as xapi does. Returns its NBD socket."""
        self.call(vdi, "vdi_attach", writable, driver="FileSR")
        self.call(vdi, "vdi_activate", writable, driver="FileSR")
        return self.socket(vdi)

    def deactivate(self, vdi):
        """Undo activate."""
        self.call(vdi, "vdi_deactivate", driver="FileSR")
        self.call(vdi, "vdi_detach", driver="FileSR")

    def destroy_all(self):
        """Every VDI, active or not; then have SM look at the fast SR."""
        for vdi, record in self.xapi.VDI.get_all_records_where('field "managed" = "true"').items():
            if any(key.startswith("host_") for key in record["sm_config"]):
                self.deactivate(vdi)
            self.xapi.VDI.destroy(vdi)
        self.xapi.SR.scan(self.fast)

    def socket(self, vdi):
        """The NBD socket with which it is active."""
        sr = self.xapi.SR.get_uuid(self.xapi.VDI.get_SR(vdi))
        return os.readlink(
            "%s/run/blktap-control/nbd/%s/%s" % (self.root, sr, self.xapi.VDI.get_uuid(vdi))
        )

    def tapdisks(self):
        """The tapdisks that run."""
        return tapctl.list()

    def images(self, name):
        """The files of the SR of that name."""
        return sorted(os.listdir("%s/srs/%s" % (self.root, name)))

    def tags(self, vdi):
        """sm_config's keys of activation."""
        return {
            key: value
            for key, value in self.xapi.VDI.get_sm_config(vdi).items()
            if key not in ("vhd-parent", "image-format")
        }


def io(socket, *commands, **options):
    """Run qemu-io commands on an NBD socket. Fails if one does, or a pattern differs.

    The lab's tapdisk takes no new connections while it is paused, so connecting is tried again, for
    a while.
    """
    line = ["qemu-io", "-f", "raw"] + (["-r"] if options.get("readonly") else [])
    for command in commands:
        line += ["-c", command]
    line.append("nbd+unix:///tapdisk_client?socket=" + socket)

    def connected():
        done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
        return None if b"Failed to connect" in done.stdout else done

    done = eventually(connected, "a connection to " + socket, CONNECT_BOUND)
    said = done.stdout.decode()
    assert done.returncode == 0 and "failed" not in said, said


@pytest.fixture(scope="module", params=RELEASES, ids=[release for release, _ in RELEASES])
def host(request):
    """One for each release; all that the tests of a module start must be ended by them."""
    release, python = request.param
    kept = {name: os.environ.get(name) for name in ("SXM_ROOT", "PATH")}
    with Lab(PLAN, release=release, python=python) as lab:
        made = SmHost(lab)
        os.environ["SXM_ROOT"] = made.root
        os.environ["PATH"] = os.pathsep.join(
            [made.root + "/usr/sbin", made.root + "/usr/bin", kept["PATH"]]
        )
        try:
            yield made
        finally:
            os.environ["PATH"] = kept["PATH"]
            if kept["SXM_ROOT"] is None:
                del os.environ["SXM_ROOT"]
            else:
                os.environ["SXM_ROOT"] = kept["SXM_ROOT"]
