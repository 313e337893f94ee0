# SPDX-License-Identifier: LGPL-2.1-only
"""Two pools on one machine: the API that tests, demo and command line use.

with Lab() as lab:
    pool = lab.pool("A")
    vm = pool.create_vm("web", [(pool.sr("a1", "fast"), 64 << 20)])
    pool.xapi.VM.start(vm, False, False)
    pool.host("a1").guest(uuid).check()
"""

import concurrent.futures
import json
import os
import secrets
import shutil
import sys
import tempfile
import uuid

from lab.blktap import install as blktap
from lab.pools import roots, topology
from lab.pools.daemons import Daemons, end_all_of, of_root
from lab.pools.host import Host
from lab.pools.pool import Pool
from lab.pools.releases import DEFAULT, RELEASES
from lab.xapi.config import FLUSH_SECONDS
from lab.xenopsd import process

QCOW2_FIRST = {"preferred-image-formats": "qcow2,vhd"}
"""Of the lab's SRs on XCP-ng, where VHD is first if nothing is said."""


class Lab:
    """All pools. A context manager: brings them up, and down again to the last process."""

    def __init__(
        self, plan=topology.DEFAULT, directory=None, python=None, release=None, flush_seconds=None
    ):
        """`directory`: where it lives (default: a new one, /tmp/sxm-<hex>); `python`: dom0's
        interpreter (default: $SXM_LAB_PYTHON or this one); `release`: whose storage dom0 has, a
        name in lab.pools.releases (default: $SXM_LAB_RELEASE or upstream); `flush_seconds`: after
        which a xapi writes its database by itself (default: $SXM_LAB_FLUSH_SECONDS or as a real
        one)."""
        self._plan = plan
        self._python = python or os.environ.get("SXM_LAB_PYTHON") or sys.executable
        self.flush_seconds = float(
            os.environ.get("SXM_LAB_FLUSH_SECONDS", FLUSH_SECONDS)
            if flush_seconds is None
            else flush_seconds
        )
        self._release = RELEASES[release or os.environ.get("SXM_LAB_RELEASE", DEFAULT)]
        self.directory = directory or os.path.join(
            tempfile.gettempdir(), "sxm-" + secrets.token_hex(3)
        )
        self.pools = []
        self.daemons = None

    def __enter__(self):
        self.up()
        return self

    def __exit__(self, *_):
        self.down()

    @classmethod
    def found(cls, directory):
        """The lab that another process brought up in `directory`."""
        lab = cls(directory=directory)
        with open(os.path.join(directory, "lab.json")) as stream:
            lab._take(json.load(stream))
        return lab

    @property
    def owner(self):
        """The pid of the process that brought it up, while that runs; else None."""
        with open(os.path.join(self.directory, "owner.json")) as stream:
            owner = json.load(stream)
        return owner["pid"] if process.alive(owner["pid"], owner["started"]) else None

    def up(self):
        """Bring all up; on failure takes down what came up, and raises."""
        if "_" in self.directory:
            raise ValueError(
                "XenAPI takes '_' in the path of a unix socket for '/': %s" % self.directory
            )
        os.makedirs(self.directory, mode=0o700)
        try:
            endpoints = topology.endpoints([name for plan in self._plan for name in plan.hosts])
            state = [self._pool_state(plan, endpoints) for plan in self._plan]
            self._write(
                "owner.json", {"pid": os.getpid(), "started": process.start_time(os.getpid())}
            )
            self._write("lab.json", state)
            for pool in state:
                for host in pool["hosts"]:
                    roots.build(host["root"], host["config"], self._python, self._release)
            self._take(state)
            with concurrent.futures.ThreadPoolExecutor(len(self.pools)) as at_once:
                for _ in at_once.map(self._start_pool, self._plan, self.pools):
                    pass
        except BaseException:
            self.down()
            raise

    def down(self):
        """End every process of the lab and remove its directory; the command lines of those that
        nobody had recorded."""
        strays = []
        for name in self.daemons.names() if self.daemons else []:
            self.daemons.kill(name)
        for host in self.hosts:
            known = {domain["pid"] for domain in self._domains(host)}
            known.update(blktap.stop_all(host.root))
            strays += [
                command for pid, command in end_all_of(host.root).items() if pid not in known
            ]
        shutil.rmtree(self.directory, ignore_errors=True)
        left = [path for path in [self.directory] if os.path.exists(path)]
        left += [command for host in self.hosts for command in of_root(host.root).values()]
        if left:
            raise RuntimeError("the lab leaves behind: %s" % ", ".join(left))
        return strays

    @property
    def hosts(self):
        """Every host of every pool."""
        return [host for pool in self.pools for host in pool.hosts]

    def pool(self, name):
        """The pool of this name."""
        return next(pool for pool in self.pools if pool.name == name)

    def host(self, name):
        """The host of this name."""
        return next(host for host in self.hosts if host.name == name)

    @staticmethod
    def _start_pool(plan, pool):
        for host in pool.hosts:
            host.start_xapi()
            host.start_xenopsd()
        pool.furnish(plan)

    def _write(self, name, content):
        with open(os.path.join(self.directory, name), "w") as stream:
            json.dump(content, stream, indent=1)

    def _take(self, state):
        self.daemons = Daemons(os.path.join(self.directory, "processes.json"))
        self.pools = [
            Pool(pool["name"], [Host(host, self.daemons) for host in pool["hosts"]], pool)
            for pool in state
        ]

    def _pool_state(self, plan, endpoints):
        password, secret, pool_uuid = secrets.token_hex(8), secrets.token_hex(16), str(uuid.uuid4())
        directory = os.path.join(self.directory, plan.name)
        hosts = []
        for name in plan.hosts:
            root = os.path.join(self.directory, name)
            hosts.append(
                {
                    "name": name,
                    "root": root,
                    "config": {
                        "host": {
                            "uuid": str(uuid.uuid4()),
                            "name": name,
                            "address": endpoints[name].address,
                            "control_domain": str(uuid.uuid4()),
                        },
                        "http_port": endpoints[name].http_port,
                        "https_port": endpoints[name].https_port,
                        "role": "master" if name == plan.hosts[0] else "slave",
                        "master": {
                            "address": endpoints[plan.hosts[0]].address,
                            "http_port": endpoints[plan.hosts[0]].http_port,
                        },
                        "pool_secret": secret,
                        "pool": {"uuid": pool_uuid, "name": plan.name},
                        "database_flush_seconds": self.flush_seconds,
                        "root_password": password,
                    },
                }
            )
        return {
            "name": plan.name,
            "directory": directory,
            "password": password,
            "hosts": hosts,
            "device_config": QCOW2_FIRST if self._release.qcow2 else {},
        }

    @staticmethod
    def _domains(host):
        directory = os.path.join(host.root, "var/lib/xenopsd")
        if os.path.isdir(directory):
            for name in os.listdir(directory):
                if name.endswith(".json"):
                    with open(os.path.join(directory, name)) as stream:
                        domain = json.load(stream)["domain"]
                    if domain:
                        yield domain
