# SPDX-License-Identifier: LGPL-2.1-only
"""Real processes for the tests of the data path: disks served by qemu-nbd, movers, a receiver, and
a guest with its tapdisk.

Everything that a `Site` starts it ends, by pid, when its `with` block is left.
"""

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from storage_motion.errors import ConnectionLost
from storage_motion.source import windows
from storage_motion.wire import control_socket, nbd, nbd_client, stream
from tests.eventually import eventually

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
PYTHON_LIBS = os.path.join(REPOSITORY, "lab/python_libs")  # dom0's
MIB = 1 << 20
# seconds of a stall, where no test waits for it: a busy machine must not break a mirror
PATIENT = 60.0


def connectable(path):
    """Whether somebody listens on the unix socket `path`."""
    probe = socket.socket(socket.AF_UNIX)
    try:
        probe.connect(path)
        return True
    except OSError:
        return False
    finally:
        probe.close()


def pattern(seed, length):
    """`length` reproducible bytes that are not zero anywhere in a row."""
    generator = random.Random(seed)
    block = bytes(generator.getrandbits(8) | 1 for _ in range(4093))
    return (block * (length // len(block) + 1))[:length]


class Site(object):
    """A directory and the processes that work in it."""

    HOME = "/dev/shm"  # where the directory is

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix="sxm-data-", dir=self.HOME)
        self._processes = []
        return self

    def __exit__(self, *_):
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(60)
        shutil.rmtree(self.directory)

    def path(self, name):
        """The path of `name` in the site's directory."""
        return os.path.join(self.directory, name)

    def start(self, arguments):
        """Start a process with this checkout on its path; a Popen."""
        environment = dict(os.environ, PYTHONPATH=REPOSITORY + os.pathsep + PYTHON_LIBS)
        with open(self.path("stderr"), "ab") as errors:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                env=environment,
                cwd=self.directory,
            )
        self._processes.append(process)
        return process

    def image(self, name, content):
        """A raw image with `content`; its path."""
        path = self.path(name)
        with open(path, "wb") as target:
            target.write(content)
        return path

    def serve(self, image, clients=16, cache="writeback"):
        """Serve `image` as a tapdisk would: (Popen, path of the NBD socket). `cache`: see
        qemu-nbd(8)."""
        path = image + ".nbd"
        process = self.start(
            [
                "qemu-nbd",
                "-t",
                "-e",
                str(clients),
                "-f",
                "raw",
                "--cache=" + cache,
                "-x",
                nbd_client.EXPORT_NAME,
                "-k",
                path,
                image,
            ]
        )
        eventually(lambda: connectable(path), "qemu-nbd listens")
        return process, path

    def write_spec(self, name, spec):
        """A private JSON file; its path."""
        path = self.path(name)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as target:
            json.dump(spec, target)
        return path

    def complaints(self):
        """What the processes have written to stderr."""
        with open(self.path("stderr")) as source:
            return source.read()

    def log(self, name):
        """What the process `name` has logged."""
        with open(self.path(name + ".log")) as source:
            return source.read()


class Receiver(object):
    """A real receiver process with a stand-in for MirrorSR: opening a gate makes the file
    `gate-<vdi>`."""

    def __init__(self, site, disks, blank=False, python=sys.executable, **options):
        """`disks`: key -> (NBD socket, size); `blank`: whether they read as zeros; `python`: which
        one runs it."""
        self.site = site
        self.token = secrets.token_hex(16)
        spec = {
            "migration": "m",
            "address": "127.0.0.1",
            "token": self.token,
            "control": site.path("receiver.sock"),
            "ready": site.path("receiver.ready"),
            "log": site.path("receiver.log"),
            "disks": {
                key: {
                    "vdi": "vdi-" + key,
                    "sr": "sr",
                    "size": size,
                    "socket": path,
                    "depth": nbd_client.DEPTH,
                    "blank": blank,
                }
                for key, (path, size) in disks.items()
            },
        }
        spec.update(options)
        self.process = site.start(
            [
                python,
                os.path.join(HERE, "receiver_process.py"),
                site.write_spec("receiver.json", spec),
            ]
        )
        eventually(
            lambda: os.path.exists(spec["ready"]) or self.process.poll() is not None,
            "the receiver is ready",
        )
        assert os.path.exists(spec["ready"]), site.complaints()
        with open(spec["ready"]) as source:
            self.ready = json.load(source)
        self.control = spec["control"]

    def address(self):
        """What a mover's spec says of this receiver."""
        return {
            "address": "127.0.0.1",
            "port": self.ready["port"],
            "fingerprint": self.ready["fingerprint"],
            "token": self.token,
        }

    def ask(self, command):
        return control_socket.request(self.control, {"cmd": command}, 10)

    def stood_by(self):
        """What the gates were told of a command that stands by, in order."""
        with open(self.site.path("standing-by")) as told:
            return told.read().splitlines()

    def gate_opened(self, key):
        return os.path.exists(self.site.path("gate-vdi-" + key))


class Mover(object):
    """A real mover process."""

    def __init__(self, site, key, size, receiver, python=sys.executable, **options):
        self.site = site
        self.secondary = site.path(key + ".mirror")
        self.control = site.path(key + ".mover")
        self.verified = site.path(key + ".map")
        spec = {
            "migration": "m",
            "key": key,
            "size": size,
            "receiver": receiver,
            "secondary": self.secondary,
            "control": self.control,
            "verified": self.verified,
            "log": site.path(key + ".log"),
            "stall_bound": PATIENT,
            "max_outstanding": 300,
            "share": {"file": site.path(key + ".sent"), "others": site.path("*.sent")},
        }
        spec.update(options)
        self.process = site.start(
            [python, "-m", "storage_motion.source.mover", site.write_spec(key + ".json", spec)]
        )
        eventually(lambda: os.path.exists(self.control), "the mover answers")

    def ask(self, command, **arguments):
        return control_socket.request(self.control, dict(arguments, cmd=command), 30)

    def listed(self, name, extents, size):
        """The path of a file that lists `extents`, (offset, length) in bytes."""
        path = self.site.path(name)
        with open(path, "w") as target:
            target.write(windows.listed({"size": size, "extents": extents}))
        return path

    def copy(self, source, extents, size, blank=True, **more):
        """Start the copy from the NBD socket `source`; `extents`: (offset, length) in bytes."""
        path = self.listed("extents.json", extents, size)
        more.setdefault("heading", {"snapshot": source})
        answer = self.ask(
            "copy", socket=source, depth=nbd_client.DEPTH, extents=path, blank=blank, **more
        )
        assert answer == {"ok": True}, answer

    def await_copy(self, timeout=60.0):
        """Wait for the copy's end; its status."""
        return eventually(lambda: _ended(self.ask("status")["copy"]), "the copy ends", timeout)


def _ended(copy):
    return copy if copy["state"] in ("done", "failed") else None


def attach(path, size):
    """Attach to a mover's secondary as tapdisk does (block-nbd.c): OPT_EXPORT_NAME, the name with
    its NUL. An nbd_client.Client."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    deadline = time.monotonic() + 5
    stream.receive_exactly(sock, nbd.GREETING.size, deadline)
    name = b"tapdisk_client\0"
    sock.sendall(nbd.CLIENT_FLAGS.pack(nbd.FLAG_FIXED_NEWSTYLE | nbd.FLAG_NO_ZEROES))
    sock.sendall(nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_EXPORT_NAME, len(name)) + name)
    found, flags = nbd.EXPORT.unpack(stream.receive_exactly(sock, nbd.EXPORT.size, deadline))
    assert (found, flags) == (size, nbd.FLAG_HAS_FLAGS)
    return nbd_client.Client(sock, size, depth=512, timeout=60)


class Tapdisk(object):
    """The guest's tapdisk: every write to the leaf and to the mirror, answered when both have
    answered; without the mirror when that is gone."""

    def __init__(self, leaf, mirror, size):
        self.leaf = nbd_client.connect(leaf, depth=512)
        self.mirror = attach(mirror, size)
        self.size = size
        self.longest = 0.0  # seconds that a batch of the guest waited

    def write(self, batch):
        """Write `batch` ((offset, data), not overlapping), all in flight together."""
        began = time.monotonic()
        for offset, data in batch:
            self.leaf.start_write(offset, data)
        self._mirrored(lambda: [self.mirror.start_write(offset, data) for offset, data in batch])
        for _ in batch:
            self.leaf.reap()
        self._mirrored(lambda: [self.mirror.reap() for _ in batch])
        self.longest = max(self.longest, time.monotonic() - began)

    def _mirrored(self, action):
        if self.mirror is None:
            return
        try:
            action()
        except ConnectionLost:
            self.mirror.close()
            self.mirror = None

    def detach(self):
        """A clean end of both."""
        if self.mirror is not None:
            self.mirror.disconnect()
        self.leaf.disconnect()


class Monitor(object):
    """The QMP monitor of a qemu-storage-daemon."""

    def __init__(self, path):
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(10)
        self._sock.connect(path)
        self._lines = self._sock.makefile("rb")
        json.loads(self._lines.readline().decode())  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command, **arguments):
        """The answer to `command`, past any events."""
        self._sock.sendall(
            json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        )
        while True:
            message = json.loads(self._lines.readline().decode())
            assert "error" not in message, message
            if "return" in message:
                return message["return"]


def random_batch(generator, size, count):
    """Up to `count` writes of 512 bytes to 128 KiB within `size`, none overlapping another."""
    batch, taken = [], []
    for _ in range(count):
        length = 512 * generator.choice((1, 1, 2, 7, 8, 8, 8, 16, 64, 256))
        offset = 512 * generator.randrange((size - length) // 512 + 1)
        if not any(offset < end and start < offset + length for start, end in taken):
            taken.append((offset, offset + length))
            batch.append((offset, bytes([generator.randrange(1, 256)]) * length))
    return batch


def same_bytes(one, other):
    """Whether two files are equal."""
    return subprocess.call(["cmp", "-s", one, other]) == 0
