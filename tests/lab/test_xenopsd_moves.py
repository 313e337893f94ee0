# SPDX-License-Identifier: LGPL-2.1-only
"""xenopsd on two host roots, with a small stand-in for xapi: starts, moves, failures, and being
killed."""

import glob
import http.client
import http.server
import json
import os
import re
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import xmlrpc.client

import pytest

from lab.guest import control
from lab.http_client import UnixConnection
from lab.xenopsd import process, tpm, wire
from tests.eventually import eventually

VM = "11111111-2222-3333-4444-555555555555"
SIZE = 4 << 20
AT_SOURCE, AT_DESTINATION = VM[:24] + "000000000000", VM[:24] + "000000000001"
MAPPED = {"SR/s0": "SR/d0", "SR/s1": "SR/d1"}


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """An xenopsd that is killed breaks its connection: nothing to say."""


class Xapi:
    """Of xapi only what xenopsd needs: /services/SM and xenops-event on the unix socket,
    /services/xenops by TCP."""

    def __init__(self, root, images, journal):
        self.root, self.images, self.journal = root, images, journal
        self.daemons, self.refuse, self.gate = {}, set(), threading.Event()
        self.datapaths = {}  # dp: what of VDI.attach and VDI.activate stands
        self.refuse_times, self.held, self.heard = None, {"VDI.activate"}, []
        self.tpms = {}  # uuid: what is in it
        self.gate.set()
        xapi = self

        class Unix(wire._Handler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                (members,), method = xmlrpc.client.loads(body, use_builtin_types=True)
                try:
                    answer = xmlrpc.client.dumps(
                        (xapi.answer(self.path, method, members),),
                        methodresponse=True,
                        allow_none=True,
                    )
                except Exception as error:
                    answer = xmlrpc.client.dumps(
                        xmlrpc.client.Fault(46, str(error)), methodresponse=True
                    )
                self.reply(answer.encode())

            def reply(self, answer):
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        class Tcp(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                connection = UnixConnection(root + "/run/xenopsd.sock", 60)
                connection.request("POST", "/", body, {"Content-Type": "text/xml"})
                answer = connection.getresponse().read()
                connection.close()
                Unix.reply(self, answer)

            def log_message(self, *arguments):
                pass

        os.makedirs(root + "/var/lib/xcp")
        os.makedirs(root + "/nbd")
        self.servers = [
            Server(root + "/var/lib/xcp/xapi", Unix),
            http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tcp),
        ]
        for server in self.servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = (
            "http://127.0.0.1:%d/services/xenops?session_id=x" % self.servers[1].server_address[1]
        )

    def answer(self, path, method, members):
        if path == "/services/xenops-event":
            self.heard.append((method, members["id"]))
            return ""
        if path == "/services/guard":
            return self.guard(method, **members)
        locator = "%s/%s" % (members["sr"], members["vdi"])
        if method == "DP.destroy":
            held = self.datapaths.pop(members["dp"], [])
            for done, undo in (("VDI.activate", "VDI.deactivate"), ("VDI.attach", "VDI.detach")):
                if done in held:
                    self.answer(path, undo, members)
            return {}
        self.datapaths.setdefault(members["dp"], set()).add(method)
        if method == "VDI.deactivate":
            self.datapaths[members["dp"]].discard("VDI.activate")
        if (method, locator) in self.refuse and self.refuse_times != 0:
            if self.refuse_times:
                self.refuse_times -= 1
            raise ValueError("no %s of %s" % (method, locator))
        if method in self.held:
            assert self.gate.wait(30)
        if method == "VDI.activate":
            sock = self.root + "/nbd/" + members["vdi"]
            if os.path.exists(sock):
                os.unlink(sock)  # of one that has ended
            self.daemons[locator] = subprocess.Popen(
                [
                    "qemu-storage-daemon",
                    "--nbd-server",
                    "addr.type=unix,addr.path=" + sock,
                    "--blockdev",
                    "driver=file,node-name=f,filename=%s" % (self.images / members["vdi"]),
                    "--export",
                    "nbd,id=e,node-name=f,name=tapdisk_client,writable=on",
                ]
            )
            eventually(lambda: os.path.exists(sock), "the tapdisk listens")
        self.journal.append((os.path.basename(self.root), method, members["vdi"]))
        if method == "VDI.activate":
            return {"socket": sock}
        if method == "VDI.deactivate":
            self.stop(locator)
        return {}

    def guard(self, method, vtpm_uuid, contents=None):
        if (method, vtpm_uuid) in self.refuse:
            raise ValueError("no %s" % method)
        if method == "vtpm_set_contents":
            self.tpms[vtpm_uuid] = contents
        return self.tpms[vtpm_uuid]

    def stop(self, locator):
        daemon = self.daemons.pop(locator, None)
        if daemon is not None:
            daemon.terminate()
            daemon.wait()

    def close(self):
        for locator in list(self.daemons):
            self.stop(locator)
        for server in self.servers:
            server.shutdown()
            server.server_close()


class Host:
    def __init__(self, root, images, journal):
        self.root = root
        self.xapi = Xapi(root, images, journal)
        self.start()

    def start(self):
        sock = self.root + "/run/xenopsd.sock"
        if os.path.exists(sock):
            os.unlink(sock)
        self.process = subprocess.Popen([sys.executable, "-m", "lab.xenopsd", "--root", self.root])
        eventually(lambda: os.path.exists(sock) and self.answers(), "xenopsd answers")

    def answers(self):
        try:
            return self.call("query")
        except OSError:
            return False

    def call(self, method, **members):
        return wire.call_unix(
            self.root + "/run/xenopsd.sock", "/", method, dict(members, debug_info="test"), 60
        )

    def perform(self, method, **members):
        task = self.call(method, **members)
        eventually(
            lambda: self.call("Task.stat", id=task)["state"][0] != "Pending", "the task's end"
        )
        return self.call("Task.stat", id=task)["state"]

    def record(self, vm=VM):
        with open("%s/var/lib/xenopsd/%s.json" % (self.root, vm)) as stream:
            return json.load(stream)

    def hook(self, name, script):
        os.makedirs("%s/etc/xapi.d/%s" % (self.root, name), exist_ok=True)
        path = "%s/etc/xapi.d/%s/50-test" % (self.root, name)
        with open(path, "w") as stream:
            stream.write("#!/bin/sh\n%s\n" % script)
        os.chmod(path, 0o755)

    def close(self):
        self.process.kill()
        self.process.wait()
        store = self.root + "/var/lib/xenopsd"
        for name in os.listdir(store):
            if name.endswith(".json"):
                with open(os.path.join(store, name)) as stream:
                    domain = json.load(stream)["domain"]
                if domain and process.alive(domain["pid"], domain["started"]):
                    process.kill(domain["pid"], domain["started"], 10)
        self.xapi.close()


@pytest.fixture
def world(tmp_path):
    """Two hosts, a journal of what their SMs were asked, and a VM on the first with two disks."""
    with tempfile.TemporaryDirectory(prefix="sxm-") as short:
        images, journal = tmp_path, []
        for name in ("s0", "s1", "d0", "d1"):
            (images / name).write_bytes(bytes(SIZE))
        hosts = [Host("%s/%s" % (short, name), images, journal) for name in ("h1", "h2")]
        disks = [
            {"device": "xvd" + "ab"[number], "vdi": "SR/s%d" % number, "rw": True}
            for number in (0, 1)
        ]
        hosts[0].metadata = {
            "id": VM,
            "name": "vm",
            "memory": 1 << 28,
            "disks": disks,
            "vifs": [{"device": "0", "mac": "", "bridge": "xenbr0"}],
            "guest": {"writes": "200", "fill": "0.2"},
        }
        hosts[0].call("VM.add", metadata=hosts[0].metadata)
        yield hosts[0], hosts[1], journal, images
        for host in hosts:
            host.close()


def migrate(source, destination, **changes):
    return source.perform(
        "VM.migrate",
        **dict(
            dict(
                id=VM,
                vdi_map=MAPPED,
                vif_map={"0": ["Local", "xenbr7"]},
                pci_map={},
                xenops_url=destination.xapi.url,
                compress=False,
                verify_dest=False,
                localhost_migration=source is destination,
            ),
            **changes,
        ),
    )


def copy_images(host, images):
    """Stands in for the product: at the switch both sides hold the same bytes."""
    script = os.path.join(host.root, "etc/lab-at-switch")
    os.makedirs(os.path.dirname(script), exist_ok=True)
    text = (
        '#!/bin/sh\necho "$1"\nfor n in 0 1; do dd if=%s/s$n of=%s/d$n conv=notrunc status=none; done\n'  # noqa: E501
        % (images, images)
    )
    with open(script, "w") as stream:
        stream.write(text)
    os.chmod(script, 0o755)


def guest(host):
    return host.call("VM.stat", id=VM)["guest"]


@pytest.mark.parametrize("same_host", [False, True])
def test_a_vm_starts_moves_with_its_memory_and_shuts_down(world, same_host):
    source, other, journal, images = world
    destination = source if same_host else other
    for host in (source, other):
        for name in (
            "vm-pre-start",
            "vm-pre-migrate",
            "vm-post-migrate",
            "vm-pre-shutdown",
            "vm-post-destroy",
        ):
            host.hook(
                name, "echo %s %s $* >> %s/hooks" % (os.path.basename(host.root), name, images)
            )
    copy_images(destination, images)
    assert source.perform("VM.start", id=VM)[0] == "Completed"
    eventually(lambda: guest(source)["writes_acknowledged"] > 100, "100 writes")
    del journal[:]
    state = migrate(source, destination)
    assert state[0] == "Completed", state
    order = [(host, method) for host, method, _ in journal]
    here, there = "h1", os.path.basename(destination.root)
    assert order == 2 * [(there, "VDI.attach")] + 2 * [(here, "VDI.deactivate")] + 2 * [
        (there, "VDI.activate")
    ] + 2 * [(here, "VDI.detach")]
    stat = destination.call("VM.stat", id=VM)
    assert stat["power_state"] == "Running"
    assert [(disk["vdi"], disk["plugged"]) for disk in stat["disks"]] == [
        ("SR/d0", True),
        ("SR/d1", True),
    ]
    assert stat["vifs"][0]["bridge"] == "xenbr7"
    assert stat["migration"]["at_switch"]["exit"] == 0
    assert json.loads(stat["migration"]["at_switch"]["output"])["disks"][0] == {
        "device": "xvda",
        "source": "SR/s0",
        "destination": "SR/d0",
    }
    assert 0 < stat["migration"]["downtime"] < 60
    eventually(lambda: guest(destination)["pauses"], "the guest goes on")
    assert control.ask(destination.record()["domain"]["control"], "check", 60)[0]["missing"] == 0
    if not same_host:
        with pytest.raises(wire.RpcFailure, match="Does_not_exist"):
            source.call("VM.stat", id=VM)
    assert destination.perform("VM.shutdown", id=VM, delay=60.0)[0] == "Completed"
    assert destination.call("VM.stat", id=VM)["power_state"] == "Halted"
    assert destination.record()["attached"] == {}
    lines = (images / "hooks").read_text().splitlines()
    assert [line.split()[:2] + [line.split()[5], "-vmdomid" in line] for line in lines] == [
        [here, "vm-pre-start", "none", False],
        [here, "vm-pre-migrate", "source", True],
        [there, "vm-post-migrate", "destination", True],
        [here, "vm-pre-shutdown", "suspend", True],
        [here, "vm-post-destroy", "suspend", False],
        [there, "vm-pre-shutdown", "clean-shutdown", True],
        [there, "vm-post-destroy", "clean-shutdown", False],
    ]
    assert all(line.split()[2:4] == ["-vmuuid", VM] for line in lines), "never a temporary id"


HOOKS = ("vm-pre-start", "vm-pre-shutdown", "vm-post-destroy", "vm-pre-reboot")


@pytest.mark.parametrize("hard", [False, True])
def test_a_reboot_is_a_shutdown_and_a_start_to_the_hooks(world, hard):
    """xenops_server.ml, atomics_of_operation (VM_reboot ...)."""
    host, _, _, images = world
    host.perform("VM.start", id=VM)
    for name in HOOKS:
        host.hook(name, "echo %s $4 >> %s/hooks" % (name, images))
    assert host.perform("VM.reboot", id=VM, **({} if hard else {"delay": 60.0}))[0] == "Completed"
    reason = "hard-reboot" if hard else "clean-reboot"
    assert (images / "hooks").read_text().splitlines() == [
        "vm-pre-shutdown " + reason,
        "vm-post-destroy " + reason,
        "vm-pre-reboot none",
        "vm-pre-start none",
    ]
    host.hook("vm-pre-start", "echo not here; exit 3")
    assert host.perform("VM.reboot", id=VM, **({} if hard else {"delay": 60.0})) == [
        "Failed",
        ["Hook_failed", ["vm-pre-start/50-test", "none", "not here\n", "3"]],
    ]
    assert host.call("VM.stat", id=VM)["power_state"] == "Halted" and not host.xapi.daemons


@pytest.mark.parametrize(
    "script, mode, state",
    [
        (
            "echo no >&2; echo yes; exit 2",
            0o755,
            ["Failed", ["Hook_failed", ["vm-pre-start/50-test", "none", "yes\n", "2"]]],
        ),
        ("exit 1", 0o755, None),
        ("exit 0", 0o644, "126"),
        ("kill -9 $$", 0o755, "WSIGNALED"),
        (
            '[ "$(env | grep -v -e PWD -e ^_ -e SHLVL)" = PATH=/sbin:/usr/sbin:/bin:/usr/bin ] || exit 2',  # noqa: E501
            0o755,
            None,
        ),
    ],
)
def test_hooks_run_as_forkexecd_runs_them(world, script, mode, state):
    host, _, _, _ = world
    host.hook("vm-pre-start", script)
    os.chmod(host.root + "/etc/xapi.d/vm-pre-start/50-test", mode)
    found = host.perform("VM.start", id=VM)
    assert found[0] == "Completed" if state is None else found == state or state in str(found), (
        found
    )


def test_the_disks_of_a_vm_stand_in_files_as_the_real_one_has_them(world):
    source, destination, _, images = world

    def disks(host):
        found = {}
        for path in glob.glob(host.root + "/run/nonpersistent/xenopsd/classic/VM/*/vbd.*"):
            with open(path) as stream:
                vbd = json.load(stream)
            found[vbd["id"][1]] = vbd["backend"]
            assert path.endswith("/%s/vbd.%s" % tuple(vbd["id"]))
        return found

    assert (
        disks(source) == {"xvda": ["VDI", "SR/s0"], "xvdb": ["VDI", "SR/s1"]}
        and disks(destination) == {}
    )
    copy_images(destination, images)
    source.perform("VM.start", id=VM)
    assert migrate(source, destination)[0] == "Completed"
    assert (
        disks(destination) == {"xvda": ["VDI", "SR/d0"], "xvdb": ["VDI", "SR/d1"]}
        and disks(source) == {}
    )


def ids(host):
    return {metadata["id"]: stat["power_state"] for metadata, stat in host.call("VM.list")}


def test_a_failed_activation_leaves_temporary_ids_on_both_sides_and_xapi_hears_of_nothing(world):
    source, destination, journal, _ = world
    source.perform("VM.start", id=VM)
    exported = source.call("VM.export_metadata", id=VM)
    heard = source.xapi.heard
    eventually(lambda: ("VM.changed", VM) in heard, "xapi is told")
    del heard[:]
    destination.xapi.refuse.add(("VDI.activate", "SR/d1"))
    state = migrate(source, destination)
    assert (
        state[0] == "Failed"
        and state[1][0] == "Internal_error"
        and "Synchronisation point 4" in state[1][1]
    ), state
    assert ids(source) == {AT_SOURCE: "Suspended"} and ids(destination) == {VM: "Paused"}
    source.call("UPDATES.refresh_vm", id=VM)
    assert not [event for event in heard if event[1] == VM], (
        "xapi hears of no VM that xenopsd does not know"
    )
    with pytest.raises(wire.RpcFailure, match="Does_not_exist.*/config"):
        source.call("VM.stat", id=VM)

    # What frees it: the temporary ids shut down and removed, the VM's metadata brought back, and
    # xapi told.
    for host, identity in ((source, AT_SOURCE), (destination, VM)):
        assert host.perform("VM.shutdown", id=identity)[0] == "Completed"
        host.call("VM.remove", id=identity)
        assert ids(host) == {} and not host.xapi.daemons
    without = json.loads(exported)
    assert json.loads(without.pop("domains")) == {"power_state": "Running"}
    assert source.call("VM.import_metadata", metadata=exported) == VM and ids(source) == {
        VM: "Running"
    }, "a domain that comes along is believed"
    assert source.perform("VM.shutdown", id=VM)[0] == "Completed"
    source.call("VM.remove", id=VM)
    source.call("VM.import_metadata", metadata=json.dumps(without))
    assert ids(source) == {VM: "Halted"}
    del heard[:]
    source.call("UPDATES.refresh_vm", id=VM)
    eventually(lambda: ("VM.changed", VM) in heard, "xapi is told")
    destination.xapi.refuse.clear()
    assert source.perform("VM.start", id=VM)[0] == "Completed"
    copy_images(destination, world[3])
    assert migrate(source, destination)[0] == "Completed"


def test_a_temporary_id_that_was_left_makes_the_next_move_fail_behind_its_suspend(world):
    source, destination, _, _ = world
    source.perform("VM.start", id=VM)
    destination.xapi.refuse.add(("VDI.activate", "SR/d1"))
    migrate(source, destination)
    destination.perform("VM.shutdown", id=VM)
    destination.call("VM.remove", id=VM)
    destination.xapi.refuse.clear()
    source.perform("VM.shutdown", id=AT_SOURCE)
    assert ids(source) == {AT_SOURCE: "Suspended"}, "what has been saved is kept"
    source.call("VM.add", metadata=source.metadata)
    assert source.perform("VM.start", id=VM)[0] == "Completed"
    assert migrate(source, destination)[1] == ["Already_exists", ["VM", AT_SOURCE + "/config"]]
    assert ids(source) == {AT_SOURCE: "Suspended"} and ids(destination) == {}


def test_where_both_hosts_are_one_the_domain_ends_and_the_copy_stays_with_the_vms_id(world):
    host, _, _, _ = world
    host.perform("VM.start", id=VM)
    domain = host.record()["domain"]
    host.xapi.refuse.add(("VDI.activate", "SR/d1"))
    assert migrate(host, host)[0] == "Failed"
    assert ids(host) == {AT_SOURCE: "Suspended", VM: "Paused"}
    assert (
        not process.alive(domain["pid"], domain["started"])
        and host.record(AT_SOURCE)["attached"] == {}
    )
    assert ("VBD.changed", VM) in host.xapi.heard, (
        "xapi takes the new VDI of each disk that was activated"
    )


TPM = "22222222-2222-3333-4444-555555555555"
IN_TPM = "cGVybWFuZW50 c2F2ZWQ= "


@pytest.fixture
def with_tpm(world):
    """The same with a virtual TPM, of which both xapis know."""
    source, destination, _, _ = world
    source.call("VM.add", metadata=dict(source.metadata, tpm=[TPM]))
    source.xapi.tpms[TPM], destination.xapi.tpms[TPM] = "", "as the importer had it"
    assert source.perform("VM.start", id=VM)[0] == "Completed"
    assert len(source.xapi.tpms[TPM]) == 4 * tpm.MANUFACTURED // 3, "at its first start it is made"
    return source, destination


def test_what_is_in_a_tpm_goes_along_as_it_is_at_the_suspend(with_tpm, world):
    source, destination = with_tpm
    copy_images(destination, world[3])
    source.xapi.tpms[TPM] = IN_TPM
    assert migrate(source, destination)[0] == "Completed"
    assert destination.xapi.tpms[TPM] == IN_TPM
    for path in glob.glob("%s/var/lib/xenopsd/*" % destination.root):
        if os.path.isfile(path):
            with open(path, "rb") as kept:
                assert IN_TPM.split()[0].encode() not in kept.read()
    assert destination.perform("VM.shutdown", id=VM)[0] == "Completed"
    assert destination.perform("VM.start", id=VM)[0] == "Completed"
    assert destination.xapi.tpms[TPM] == IN_TPM, "made once"


def test_a_tpm_that_xapi_does_not_give_shuts_the_vm_down_under_its_own_id(with_tpm):
    source, destination = with_tpm
    source.xapi.refuse.add(("vtpm_get_contents", TPM))
    assert migrate(source, destination)[1] == ["Internal_error", "vtpm_get_contents: Fault"]
    assert ids(source) == {VM: "Halted"} and ids(destination) == {}


def test_a_tpm_that_xapi_does_not_take_leaves_it_under_the_temporary_id(with_tpm):
    source, destination = with_tpm
    destination.xapi.refuse.add(("vtpm_set_contents", TPM))
    assert migrate(source, destination)[1] == ["Internal_error", "vtpm_set_contents: Fault"]
    assert ids(source) == {AT_SOURCE: "Suspended"} and ids(destination) == {}


def test_a_disk_that_cannot_be_deactivated_shuts_the_vm_down_under_its_own_id(world):
    source, destination, _, _ = world
    source.perform("VM.start", id=VM)
    source.xapi.refuse.add(("VDI.deactivate", "SR/s0"))
    source.xapi.refuse_times = 1
    assert migrate(source, destination)[0] == "Failed"
    assert ids(source) == {VM: "Halted"} and ids(destination) == {}
    eventually(lambda: ("VM.changed", VM) in source.xapi.heard, "xapi is told")


def test_before_the_suspend_a_failure_leaves_it_running(world):
    source, destination, journal, _ = world
    source.perform("VM.start", id=VM)
    destination.xapi.refuse.add(("VDI.attach", "SR/d1"))
    assert migrate(source, destination)[1][0] == "Storage_backend_error"
    assert ids(source) == {VM: "Running"} and ids(destination) == {AT_DESTINATION: "Paused"}, (
        "nobody cleans up at the destination"
    )
    source.hook("vm-pre-migrate", "echo not now; exit 3")
    assert migrate(source, destination) == [
        "Failed",
        ["Hook_failed", ["vm-pre-migrate/50-test", "source", "not now\n", "3"]],
    ]
    source.hook("vm-pre-migrate", "exit 1")
    assert migrate(source, destination)[1] == ["Already_exists", ["domain", AT_DESTINATION]]
    destination.perform("VM.shutdown", id=AT_DESTINATION)
    destination.call("VM.remove", id=AT_DESTINATION)
    assert (
        migrate(source, destination, xenops_url="http://127.0.0.1:9/services/xenops?session_id=x")[
            1
        ][0]
        == "Failed_to_contact_remote_service"
    )
    assert ids(source) == {VM: "Running"}
    before = guest(source)["writes_acknowledged"]
    eventually(lambda: guest(source)["writes_acknowledged"] > before, "a further write")


def test_a_move_that_is_cancelled_before_its_suspend_leaves_nothing(world):
    source, destination, _, _ = world
    source.perform("VM.start", id=VM)
    destination.xapi.gate.clear()
    destination.xapi.held.add("VDI.attach")
    task = source.call(
        "VM.migrate",
        id=VM,
        vdi_map=MAPPED,
        vif_map={},
        pci_map={},
        xenops_url=destination.xapi.url,
        compress=False,
        verify_dest=False,
        localhost_migration=False,
    )
    eventually(lambda: AT_DESTINATION in ids(destination), "it is on its way")
    source.call("Task.cancel", id=task)
    destination.xapi.gate.set()
    eventually(
        lambda: source.call("Task.stat", id=task)["state"] == ["Failed", ["Cancelled", task]],
        "it is cancelled",
    )
    assert ids(source) == {VM: "Running"} and ids(destination) == {}


def test_a_guest_outlives_its_xenopsd_and_a_killed_guest_is_noticed(world):
    source, _, _, _ = world
    source.perform("VM.start", id=VM)
    pid = source.record()["domain"]["pid"]
    source.process.send_signal(signal.SIGKILL)
    source.process.wait()
    source.start()
    assert source.call("VM.stat", id=VM)["power_state"] == "Running"
    assert source.record()["domain"]["pid"] == pid
    os.kill(pid, signal.SIGKILL)
    eventually(
        lambda: source.call("VM.stat", id=VM)["power_state"] == "Halted", "its end is noticed"
    )
    assert not source.xapi.daemons


def test_a_guest_that_a_killed_xenopsd_had_not_noted_is_ended(world):
    source, _, _, _ = world
    source.perform("VM.start", id=VM)
    noted = source.record()
    source.process.kill()
    source.process.wait()
    with open("%s/var/lib/xenopsd/%s.json" % (source.root, VM), "w") as record:
        # as it stood before the domain was built
        json.dump(dict(noted, domain=None, power_state="Halted", attached={}), record)
    for locator in list(source.xapi.daemons):
        source.xapi.stop(locator)
    source.start()
    eventually(
        lambda: not process.alive(noted["domain"]["pid"], noted["domain"]["started"]),
        "the guest is ended",
    )
    assert not os.path.exists(noted["domain"]["config"]) and not os.path.exists(
        noted["domain"]["control"]
    )


def test_the_destination_killed_while_it_waits_for_the_gate(world):
    source, destination, _, _ = world
    source.perform("VM.start", id=VM)
    destination.xapi.gate.clear()
    task = source.call(
        "VM.migrate",
        id=VM,
        vdi_map=MAPPED,
        vif_map={},
        pci_map={},
        xenops_url=destination.xapi.url,
        compress=False,
        verify_dest=False,
        localhost_migration=False,
    )
    eventually(
        lambda: os.path.exists("%s/var/lib/xenopsd/%s.json" % (destination.root, VM)),
        "the destination has it",
    )
    destination.process.kill()
    destination.process.wait()
    destination.xapi.gate.set()
    destination.start()
    assert ids(destination) == {VM: "Paused"}, (
        "a domain outlives its xenopsd, and nobody remembers what was to become of it"
    )
    eventually(lambda: source.call("Task.stat", id=task)["state"][0] == "Failed", "the move fails")
    assert ids(source) == {AT_SOURCE: "Suspended"}
    domain = source.record(AT_SOURCE)["domain"]
    source.process.kill()
    source.process.wait()
    source.start()
    assert ids(source) == {AT_SOURCE: "Suspended"} and not process.alive(
        domain["pid"], domain["started"]
    )


def test_what_it_does_not_know_it_says_so(world):
    source, _, _, _ = world
    with pytest.raises(
        http.client.HTTPException,
        match="VM.fly: HTTP 500 b'<html><body><h1>HTTP 500 internal server error</h1>",
    ):
        source.call("VM.fly")
    with pytest.raises(wire.RpcFailure, match="Expecting named argument"):
        source.call("VM.start")
    with pytest.raises(
        wire.RpcFailure, match=re.escape("""['Internal_error', 'Idl.MarshalError("Unhandled")']""")
    ):
        migrate(source, source, vdi_map=[["SR/s0", "SR/d0"]])  # recorded: xenops-VM.migrate-arrays
    state = migrate(source, source)
    assert state == ["Failed", ["Bad_power_state", ["Halted", "Running"]]]


def test_what_a_guest_has_written_may_be_more_than_32_bits_tell():
    answer = wire.success({"bytes_written": 5 << 30, "pauses": [0.25], "running": True})
    (value,), _ = xmlrpc.client.loads(answer)
    assert value["Value"] == {"bytes_written": 5 << 30, "pauses": [0.25], "running": True}
