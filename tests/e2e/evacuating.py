# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm evacuate` as an administrator runs it, on a machine of his own."""

import json
import os
import subprocess
import sys

BOUND = 240.0
REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def address(pool):
    """That of its master."""
    return "%s:%d" % (pool.master.address, pool.master.https_port)


def summary(said):
    """That of `--json`, behind the lines of the events."""
    return json.loads(said[said.index("\n{") :])


def disks_of(pool, vm):
    """The VDIs of a VM (refs)."""
    x = pool.xapi
    return [x.VBD.get_VDI(vbd) for vbd in x.VM.get_VBDs(vm) if x.VBD.get_type(vbd) == "Disk"]


class Command:
    """sxm on a machine of its own, which is `home` and no more. `pool`: that it is about; `other`:
    whose password it has, too; `name`: that of each evacuation's state file."""

    def __init__(self, pool, home, name, other=None):
        self._pool, self._name = pool, name
        self._environment = dict(
            os.environ,
            SXM_PASSWORD=pool.password,
            SXM_REMOTE_PASSWORD=other.password if other else "",
            XDG_CONFIG_HOME=str(home / "config"),
            XDG_STATE_HOME=str(home / "state"),
            XDG_DATA_HOME=str(home / "data"),
            PYTHONPATH=REPOSITORY,
        )
        self.state = str(home / "state" / "sxm" / "evacuations" / (name + ".jsonl"))

    def begin(self, *options):
        """Its process."""
        return subprocess.Popen(
            [sys.executable, "-m", "storage_motion.cli.main", "-s", address(self._pool)]
            + ["evacuate", "--name", self._name, "--retries", "0"]
            + list(options),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *options, meanwhile=lambda process: None):
        """(exit status, what it said)"""
        process = self.begin(*options)
        try:
            meanwhile(process)
            said = process.communicate(timeout=BOUND)[0]
        finally:
            process.kill()
        print(said)
        return process.returncode, said

    def listed(self):
        """The migrations that the pool knows."""
        api = self._pool.xapi
        master = self._pool.host_ref(self._pool.master.name)
        return json.loads(api.host.call_plugin(master, "sxm.py", "list", {}))["migrations"]

    def events(self, kind):
        """Those that it has noted until now."""
        if not os.path.exists(self.state):
            return []
        with open(self.state) as stream:
            found = [json.loads(line) for line in stream if line.endswith("\n")]
        return [event for event in found if event["event"] == kind]
