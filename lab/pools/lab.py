# SPDX-License-Identifier: LGPL-2.1-only
"""Two pools on one machine: the API that tests, demo and command line use.

with Lab() as lab:
    pool = lab.pool("A")
    vm = pool.create_vm("web", [(pool.sr("a1", "fast"), 64 << 20)])
    pool.xapi.VM.start(vm, False, False)
    pool.host("a1").guest(uuid).check()
"""

import concurrent.futures
import contextlib
import json
import os
import secrets
import shutil
import sys
import tempfile
import uuid

import XenAPI

from lab.blktap import install as blktap
from lab.guest import control, record
from lab.pools import roots, topology, vms
from lab.pools.daemons import Daemons, end_all_of, of_root
from lab.pools.releases import DEFAULT, RELEASES
from lab.xapi import startup
from lab.xapi.config import FLUSH_SECONDS
from lab.xenopsd import process, wire

CHECK = 300.0
"""Seconds that a full check of a guest may take."""
ANSWER = 30.0
SR_SIZE = 10 << 30
GUEST_NETWORK = "guests"
QCOW2_FIRST = {"preferred-image-formats": "qcow2,vhd"}
"""Of the lab's SRs on XCP-ng, where VHD is first if nothing is said."""


class Guest:
    """The guest of a running VM, by its control socket."""

    def __init__(self, path):
        self._path = path

    def status(self, reset=False):
        """Its counters; with `reset` the longest write is measured anew."""
        return control.ask(self._path, "status", ANSWER, reset=reset)[0]

    def records(self):
        """What was acknowledged so far: {device: lab.guest.record.Record.pack()}. It outlives the
        guest, unlike its memory."""
        return record.load(control.ask(self._path, "records", ANSWER)[1])

    def check(self):
        """Have it read everything that was ever acknowledged; {"missing", "seconds", "disks"}."""
        return control.ask(self._path, "check", CHECK)[0]


class Host:
    """One host: its root directory, its daemons."""

    def __init__(self, state, daemons):
        self._daemons = daemons
        self.name, self.root, self.uuid = (
            state["name"],
            state["root"],
            state["config"]["host"]["uuid"],
        )
        self.address, self.http_port, self.https_port = (
            state["config"]["host"]["address"],
            state["config"]["http_port"],
            state["config"]["https_port"],
        )
        self.role = state["config"]["role"]

    def start_xapi(self):
        """Start xapi and wait until it serves."""
        self._daemons.start(
            self.name + "/xapi", "lab.xapi", self.root, self.root + "/run/xapi.ready"
        )

    def start_xenopsd(self):
        """Start xenopsd and wait until it serves."""
        self._daemons.start(
            self.name + "/xenopsd", "lab.xenopsd", self.root, self.root + "/run/xenopsd.sock"
        )

    def stop_xapi(self):
        """End xapi as systemd does: it writes its database first."""
        self._daemons.end(self.name + "/xapi")

    @property
    def is_deaf(self):
        """Whether its xapi hears nothing of its xenopsd any more, until it is started again
        (lab/xapi/startup.py)."""
        try:
            with open(self.root + startup.EVENTS) as stream:
                return stream.read() == startup.DEAF
        except FileNotFoundError:
            return False  # it has not been started since the host had no power

    def kill(self, daemon):
        """kill -9 its "xapi" or "xenopsd"."""
        self._daemons.kill("%s/%s" % (self.name, daemon))

    def xenopsd(self, method, **members):
        """Call this host's xenopsd."""
        return wire.call_unix(
            self.root + "/run/xenopsd.sock", "/", method, dict(members, debug_info="lab"), ANSWER
        )

    def domain(self, vm):
        """The domain of the VM with this uuid, as its xenopsd wrote it down, or None."""
        try:
            with open("%s/var/lib/xenopsd/%s.json" % (self.root, vm)) as stream:
                return json.load(stream)["domain"]
        except FileNotFoundError:
            return None

    def guest(self, vm):
        """The Guest of the VM with this uuid, which runs here."""
        return Guest(self.domain(vm)["control"])

    def open_ports(self):
        """What its firewall admits for migrations: ["tcp/PORT", ...]."""
        try:
            with open(self.root + "/etc/sysconfig/lab-firewall.json") as stream:
                return json.load(stream)
        except FileNotFoundError:
            return []

    def at_switch(self, script):
        """Install `script` (text) as this host's etc/lab-at-switch; None removes it."""
        path = self.root + "/etc/lab-at-switch"
        if script is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        with open(path, "w") as stream:
            stream.write(script)
        os.chmod(path, 0o755)


class Pool:
    """One pool: its hosts, and a XenAPI session with its master."""

    def __init__(self, name, hosts, state):
        self.name, self.hosts, self._state = name, hosts, state
        self.master = hosts[0]
        self.password = state["password"]
        self._session = None

    @property
    def url(self):
        """Where its master's XenAPI is."""
        return "https://%s:%d" % (self.master.address, self.master.https_port)

    def session(self):
        """A new XenAPI session, logged in as root with the password."""
        session = XenAPI.Session(
            "http://%s:%d" % (self.master.address, self.master.http_port), ignore_ssl=True
        )
        session.xenapi.login_with_password("root", self.password, "1.0", "lab")
        return session

    @property
    def xapi(self):
        """XenAPI, logged in."""
        self._session = self._session or self.session()
        return self._session.xenapi

    def forget_session(self):
        """After its master's xapi was killed: log in anew at the next use."""
        self._session = None

    def host(self, name):
        """The host of this name."""
        return next(host for host in self.hosts if host.name == name)

    def host_ref(self, name):
        """Its ref."""
        return self.xapi.host.get_by_uuid(self.host(name).uuid)

    def sr(self, *names):
        """The ref of an SR: `sr("a1", "fast")`, or `sr("shared")`."""
        return self.xapi.SR.get_by_name_label("-".join(names))[0]

    def network(self, name=GUEST_NETWORK):
        """The ref of a network, by its name."""
        return self.xapi.network.get_by_name_label(name)[0]

    def create_vm(self, name, disks, guest=None):
        """A halted VM: see vms.create_vm; its ref."""
        return vms.create_vm(self.xapi, name, disks, self.network(), guest)

    def start_vm(self, vm, host):
        """Start the VM (a ref) on the host of this name; the uuid of the VM."""
        self.xapi.VM.start_on(vm, self.host_ref(host), False, False)
        return self.xapi.VM.get_uuid(vm)

    def furnish(self, plan):
        """Create what the pool shall have: local SRs, a shared one, a network for guests."""
        for host in self.hosts:
            for name in plan.local:
                self._create_sr(
                    host, "%s-%s" % (host.name, name), os.path.join(host.root, "srs", name), False
                )
        if plan.shared:
            self._create_sr(
                self.master, "shared", os.path.join(self._state["directory"], "shared"), True
            )
        self.xapi.network.create(
            {
                "name_label": GUEST_NETWORK,
                "name_description": "Of the lab's guests",
                "MTU": "1500",
                "other_config": {},
                "tags": [],
                "managed": True,
            }
        )
        self.xapi.pool.sync_database()

    def _create_sr(self, host, label, location, shared):
        os.makedirs(location)
        device_config = dict(self._state["device_config"], location=location)
        self.xapi.SR.create(
            self.host_ref(host.name),
            device_config,
            str(SR_SIZE),
            label,
            "",
            "file",
            "user",
            shared,
            {},
        )


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
