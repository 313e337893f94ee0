# SPDX-License-Identifier: LGPL-2.1-only
"""The files in which the real xenopsd keeps what it knows, as far as dom0 looks into them: the
disks of each VM.

/var/run/nonpersistent/xenopsd/classic/VM/<id>/vbd.<device> (xenops_utils.ml, FileFS;
xenops_server.ml, VBD_DB; xc/xenops_xc_main.ml), which has the JSON of a Vbd.t, as
docs/facts/recorded/xenops-VM.export_metadata.response shows it. /var/run is /run.
"""

import contextlib
import json
import os

DIRECTORY = "run/nonpersistent/xenopsd/classic/VM"


class Files:
    """Those of the host at `root`."""

    def __init__(self, root):
        self._directory = os.path.join(root, DIRECTORY)

    def write(self, record):
        """Write those of a VM's record, and remove those of disks that it has not any more."""
        directory = self._of(record["id"])
        os.makedirs(directory, exist_ok=True)
        disks = {"vbd." + disk["device"]: disk for disk in record["metadata"]["disks"]}
        for name in set(os.listdir(directory)) - set(disks):
            os.unlink(os.path.join(directory, name))
        for name, disk in disks.items():
            with open(os.path.join(directory, name), "w") as stream:
                json.dump(_vbd(record["id"], disk), stream, separators=(",", ":"))

    def remove(self, identity):
        """Remove those of a VM."""
        directory = self._of(identity)
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(directory):
                os.unlink(os.path.join(directory, name))
            os.rmdir(directory)

    def _of(self, identity):
        return os.path.join(self._directory, identity)


def _vbd(identity, disk):
    number = ord(disk["device"][-1]) - ord("a")
    return {
        "can_attach_early": False,
        "persistent": True,
        "extra_private_keys": {},
        "extra_backend_keys": {},
        "unpluggable": True,
        "ty": "Disk",
        "backend": ["VDI", disk["vdi"]],
        "mode": "ReadWrite" if disk["rw"] else "ReadOnly",
        "position": ["Ide", number, 0],
        "id": [identity, disk["device"]],
    }
