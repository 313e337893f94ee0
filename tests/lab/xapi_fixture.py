# SPDX-License-Identifier: LGPL-2.1-only
"""A pool of lab xapis for tests: roots, a tiny storage driver, a tiny xenopsd, and the stock XenAPI
client."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import uuid
import xmlrpc.client

import pytest
import XenAPI

from tests.eventually import eventually

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PASSWORD = "a password of the lab"

DRIVER = """
import json, os, sys, time, uuid, xmlrpc.client
import XenAPI
ROOT = os.environ["SXM_ROOT"]

def session(ref):
    s = XenAPI.Session("http://" + (ROOT + "/var/lib/xcp/xapi").replace("/", "_"), transport=XenAPI.UDSTransport())
    s._session = ref
    return s

class Fault(Exception):
    pass

def introduce(x, d, new, **more):
    fields = dict(name="made by the driver", sm_config={})
    fields.update(more)
    x.xenapi.VDI.db_introduce(new, fields["name"], "", d["sr_ref"], "user", False, False, {}, new + ".img", {}, fields["sm_config"],
                              True, str(fields["size"]), "0", "OpaqueRef:NULL", False, xmlrpc.client.DateTime("19700101T00:00:00Z"), "OpaqueRef:NULL", False)
    return {"uuid": new, "location": new + ".img"}

def run(d, command):
    with open(ROOT + "/driver.log", "a") as log:
        log.write(json.dumps([command, d]) + "\\n")
    if command == "sr_get_driver_info":
        return {"name": "Tiny", "description": "a driver of the tests", "vendor": "lab", "copyright": "lab", "driver_version": "1.0",
                "required_api_version": "1.0", "capabilities": ["VDI_CREATE", "VDI_SNAPSHOT/2"],
                "configuration": [{"key": "location", "description": "where"}]}
    if d["device_config"].get("location") == "bad":
        raise Fault(140, "the location is bad")
    x = session(d["session_ref"])
    if command in ("sr_create", "sr_attach", "sr_detach", "sr_delete", "sr_update", "vdi_detach", "vdi_update"):
        return None
    if command == "sr_scan":
        x.xenapi.SR.set_physical_size(d["sr_ref"], str(1 << 40))
        return None
    if command == "vdi_create":
        if d["args"][1] == "fail":
            sys.stderr.write("details\\n")
            raise Fault(46, "no room")
        while os.path.exists(ROOT + "/disks-are-slow"):
            time.sleep(0.05)
        return introduce(x, d, str(uuid.uuid4()), size=d["args"][0], sm_config=d["vdi_sm_config"])
    if command in ("vdi_snapshot", "vdi_clone"):
        size = x.xenapi.VDI.get_virtual_size(d["vdi_ref"])
        return introduce(x, d, str(uuid.uuid4()), size=size, sm_config=d["driver_params"])
    if command == "vdi_introduce":
        return introduce(x, d, d["new_uuid"], size=1)
    if command == "vdi_resize":
        x.xenapi.VDI.set_virtual_size(d["vdi_ref"], d["args"][0])
        return {"uuid": d["vdi_uuid"], "location": d["vdi_location"]}
    if command == "vdi_delete":
        x.xenapi.VDI.db_forget(d["vdi_ref"])
        return None
    link = ROOT + "/run/blktap-control/nbd/%s/%s" % (d["sr_uuid"], d["vdi_uuid"])
    if command == "vdi_attach":
        return {"params_nbd": "nbd:unix:" + link, "o_direct": True, "o_direct_reason": "", "xenstore_data": {}}
    if command == "vdi_activate":
        xapi = os.getppid()
        while os.path.exists(ROOT + "/gate-is-shut"):
            time.sleep(0.05)
            try:
                x.xenapi.VDI.get_sm_config(d["vdi_ref"])    # as SM does, once a second
            except Exception as error:
                raise Fault(401, str(error))
            if os.getppid() != xapi:
                raise Fault(46, "its session is gone")
        os.makedirs(os.path.dirname(link), exist_ok=True)
        os.symlink(ROOT + "/run/blktap-control/nbd1.0", link)
        return None
    if command == "vdi_deactivate":
        os.unlink(link)
        return None
    raise Fault(38, "not implemented")

(struct,), command = xmlrpc.client.loads(sys.argv[1])
try:
    print(xmlrpc.client.dumps((run(struct, command),), methodresponse=True, allow_none=True))
except Fault as fault:
    print(xmlrpc.client.dumps(xmlrpc.client.Fault(*fault.args)))
"""  # noqa: E501

PLUGIN = """
import os, signal, subprocess, sys, xmlrpc.client
(session, args), fn = xmlrpc.client.loads(sys.argv[1])
def say(**answer):
    print(xmlrpc.client.dumps((answer,), methodresponse=True))
if fn == "echo":
    say(Status="Success", Value="%s at %s" % (sorted(args.items()), os.environ["SXM_ROOT"]))
elif fn == "session":
    say(Status="Success", Value=session)
elif fn == "argv":
    say(Status="Success", Value=sys.argv[1])
elif fn == "refuse":
    say(Status="Failure", ErrorDescription=["SXM_BAD_ARGUMENTS", "vm: no such VM"])
elif fn == "exit":
    print("out"); sys.stderr.write("err"); sys.exit(3)
elif fn == "signal":
    os.kill(os.getpid(), signal.SIGKILL)
elif fn == "garbage":
    print("this is no XML")
elif fn == "number":
    print(xmlrpc.client.dumps((5,), methodresponse=True))
elif fn == "fault":
    print(xmlrpc.client.dumps(xmlrpc.client.Fault(7, "a fault")))
elif fn == "daemon":
    subprocess.Popen(["sleep", "20"])
    say(Status="Success", Value="left one behind")
"""


class UnixSession(XenAPI.Session):
    """The stock client's unix transport, on a host of the lab."""

    def __init__(self, root):
        super().__init__(
            "http://" + (root + "/var/lib/xcp/xapi").replace("/", "_"),
            transport=XenAPI.UDSTransport(),
        )


def free_port(address):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def executable(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write("#!%s\n%s" % (sys.executable, text))
    os.chmod(path, 0o755)


class TinyXenopsd:
    """Enough of a xenopsd: VMs start, stop and, if it `suspends`, are suspended at once."""

    suspends = True

    def __init__(self, root):
        self.vms = {}
        self.calls = []
        os.makedirs(root + "/run", exist_ok=True)
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                line = self.rfile.readline()
                length = 0
                while line.strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                    line = self.rfile.readline()
                (members,), method = xmlrpc.client.loads(self.rfile.read(length))
                body = outer.answer(method, members).encode()
                self.wfile.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n"
                    % len(body)
                    + body
                )

        if os.path.exists(root + "/run/xenopsd.sock"):
            os.unlink(root + "/run/xenopsd.sock")
        self._server = socketserver.ThreadingUnixStreamServer(root + "/run/xenopsd.sock", Handler)
        self._server.daemon_threads = True
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()

    def answer(self, method, members):
        self.calls.append((method, members))
        name = method.replace(".", "_")
        if not hasattr(self, name):
            return xmlrpc.client.dumps(xmlrpc.client.Fault(-32601, "unknown"))
        try:
            answer = {"Status": "Success", "Value": getattr(self, name)(members)}
        except KeyError as error:
            answer = {
                "Status": "Failure",
                "ErrorDescription": ["Does_not_exist", ["VM", str(error)]],
            }
        return xmlrpc.client.dumps((answer,), methodresponse=True, allow_none=True)

    def VM_add(self, members):
        self.vms[members["metadata"]["id"]] = {
            "power_state": "Halted",
            "metadata": members["metadata"],
        }
        return members["metadata"]["id"]

    def VM_start(self, members):
        self.vms[members["id"]]["power_state"] = "Running"
        return "1"

    def VM_shutdown(self, members):
        self.vms[members["id"]]["power_state"] = "Halted"
        return "2"

    def VM_suspend(self, members):
        if self.suspends:
            self.vms[members["id"]]["power_state"] = "Suspended"
        return "3"

    def VM_resume(self, members):
        self.vms[members["id"]]["power_state"] = "Running"
        return "4"

    def VM_remove(self, members):
        del self.vms[members["id"]]

    def VM_list(self, members):
        return [[vm["metadata"], {"power_state": vm["power_state"]}] for vm in self.vms.values()]

    def VM_stat(self, members):
        vm = self.vms[members["id"]]
        return {
            "power_state": vm["power_state"],
            "domid": 3,
            "guest": {"writes": 12},
            "disks": [dict(disk, plugged=True) for disk in vm["metadata"]["disks"]],
            "vifs": [dict(vif, plugged=True) for vif in vm["metadata"]["vifs"]],
        }

    def Task_stat(self, members):
        if members["id"] == "bad":
            return {"id": "bad", "state": ["Failed", ["Internal_error", "it went wrong"]]}
        return {"id": members["id"], "state": ["Completed", {"duration": 0.1}]}

    def Task_destroy(self, members):
        return None

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


class Host:
    """One host's root and xapi."""

    def __init__(self, pool, name, address, is_master):
        self.pool, self.name, self.address, self.is_master = pool, name, address, is_master
        self.uuid = str(uuid.uuid4())
        self.root = os.path.join(pool.directory, name)
        self.http_port, self.https_port = free_port(address), free_port(address)
        self.process = None
        os.makedirs(self.root + "/etc/xapi.d/plugins")
        with open(self.root + "/etc/xensource-inventory", "w") as file:
            file.write(
                "INSTALLATION_UUID='%s'\nCONTROL_DOMAIN_UUID='%s'\n" % (self.uuid, uuid.uuid4())
            )
        with open(self.root + "/etc/xapi.conf", "w") as file:
            file.write("sm-plugins = tiny broken # and no others\n")
        executable(self.root + "/opt/xensource/sm/TinySR", DRIVER)
        executable(self.root + "/opt/xensource/sm/BrokenSR", "import sys; sys.exit(1)")
        executable(self.root + "/etc/xapi.d/plugins/probe", PLUGIN)

    def configure(self, master):
        with open(self.root + "/etc/lab-xapi.json", "w") as file:
            json.dump(
                {
                    "host": {"uuid": self.uuid, "name": self.name, "address": self.address},
                    "http_port": self.http_port,
                    "https_port": self.https_port,
                    "role": "master" if self.is_master else "slave",
                    "master": {"address": master.address, "http_port": master.http_port},
                    "pool_secret": self.pool.secret,
                    "pool": {"uuid": self.pool.uuid, "name": "pool"},
                    "root_password": PASSWORD,
                    **self.pool.settings,
                },
                file,
            )

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lab.xapi", "--root", self.root],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
        )

    def log(self):
        """What its xapi has logged."""
        with open(self.root + "/var/log/xensource.log") as log:
            return log.read()

    def wait_ready(self, seconds=30):
        def ready():
            assert self.process.poll() is None, self.log()
            return os.path.exists(self.root + "/run/xapi.ready")

        eventually(ready, "xapi is up", seconds, seen=self.log)

    def stop(self, how=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(90)
        if how == signal.SIGKILL and os.path.exists(self.root + "/run/xapi.ready"):
            os.unlink(self.root + "/run/xapi.ready")

    @property
    def url(self):
        return "http://%s:%d" % (self.address, self.http_port)

    @property
    def https_url(self):
        return "https://%s:%d" % (self.address, self.https_port)

    def local(self):
        """A session of dom0's root."""
        session = UnixSession(self.root)
        session.login_with_password("root", "", "1.0", "tests")
        return session

    def remote(self):
        session = XenAPI.Session(self.url)
        session.login_with_password("root", PASSWORD, "1.0", "tests")
        return session

    def ref(self, x):
        return x.host.get_by_uuid(self.uuid)

    def driver_calls(self, command):
        """The arguments of the driver's calls on this host, oldest first."""
        if not os.path.exists(self.root + "/driver.log"):
            return []
        with open(self.root + "/driver.log") as log:
            calls = [json.loads(line) for line in log]
        return [struct for name, struct in calls if name == command]


class LabPool:
    """A pool of one or more hosts; `stop` ends all and removes the roots."""

    def __init__(self, hosts=1, **settings):
        """`settings`: further members of lab-xapi.json."""
        self.settings = settings
        token = secrets.token_hex(4)
        self.directory = "/tmp/sxm-%s" % token
        self.secret = secrets.token_hex(16)
        self.uuid = str(uuid.uuid4())
        subnet = secrets.randbelow(250) + 2
        os.makedirs(self.directory)
        self.hosts = [
            Host(self, "h%d" % (number + 1), "127.9.%d.%d" % (subnet, number + 1), number == 0)
            for number in range(hosts)
        ]
        for host in self.hosts:
            host.configure(self.hosts[0])
            host.start()
        for host in self.hosts:
            host.wait_ready()

    @property
    def master(self):
        return self.hosts[0]

    def stop(self):
        for host in reversed(self.hosts):
            host.stop()
        shutil.rmtree(self.directory)


# --- records


def vdi_record(sr, **more):
    return dict(
        {
            "name_label": "disk",
            "name_description": "",
            "SR": sr,
            "virtual_size": str(1 << 20),
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {},
        },
        **more,
    )


def vm_record(**more):
    return dict(
        {
            "name_label": "vm",
            "name_description": "",
            "user_version": "1",
            "is_a_template": False,
            "affinity": "OpaqueRef:NULL",
            "memory_static_max": str(1 << 28),
            "memory_dynamic_max": str(1 << 28),
            "memory_dynamic_min": str(1 << 28),
            "memory_static_min": str(1 << 27),
            "VCPUs_params": {},
            "VCPUs_max": "1",
            "VCPUs_at_startup": "1",
            "actions_after_shutdown": "destroy",
            "actions_after_reboot": "restart",
            "actions_after_crash": "restart",
            "PV_bootloader": "",
            "PV_kernel": "",
            "PV_ramdisk": "",
            "PV_args": "",
            "PV_bootloader_args": "",
            "PV_legacy_args": "",
            "HVM_boot_policy": "BIOS order",
            "HVM_boot_params": {},
            "platform": {},
            "PCI_bus": "",
            "other_config": {},
            "recommendations": "",
        },
        **more,
    )


def vbd_record(vm, vdi, **more):
    return dict(
        {
            "VM": vm,
            "VDI": vdi,
            "userdevice": "autodetect",
            "bootable": False,
            "mode": "RW",
            "type": "Disk",
            "empty": False,
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        },
        **more,
    )


def vif_record(vm, network, **more):
    return dict(
        {
            "VM": vm,
            "network": network,
            "device": "0",
            "MAC": "",
            "MTU": "1500",
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        },
        **more,
    )


def make_sr(x, host, location="/sr", shared=False):
    return x.SR.create(host, {"location": location}, "0", "an SR", "", "tiny", "user", shared, {})


def failure_of(function, *arguments):
    """The error description with which the call fails."""
    try:
        answer = function(*arguments)
    except XenAPI.Failure as failure:
        return failure.details
    raise AssertionError("it did not fail: %r" % (answer,))


@contextlib.contextmanager
def pool_with_xenopsds(hosts):
    """A LabPool each of whose hosts has a TinyXenopsd, its `xenopsd`; all ends with the context."""
    pool = LabPool(hosts=hosts)
    for host in pool.hosts:
        host.xenopsd = TinyXenopsd(host.root)
    yield pool
    for host in pool.hosts:
        host.xenopsd.stop()
    pool.stop()


@pytest.fixture(scope="module")
def x(pool):
    """XenAPI of the pool that the module has."""
    return pool.master.remote().xenapi


@pytest.fixture(scope="module")
def sr(pool, x):
    """A shared SR of that pool: its ref."""
    return make_sr(x, pool.master.ref(x), "/shared", shared=True)
