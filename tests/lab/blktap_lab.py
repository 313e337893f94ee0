# SPDX-License-Identifier: LGPL-2.1-only
"""What the tests of the lab's tapdisk stand on: a root with tap-ctl in it, disks, a writer that
remembers, a relay."""

import contextlib
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from lab.blktap import install, nbd_server, records
from lab.dom0 import scripts
from storage_motion.dom0 import tapctl
from storage_motion.wire import nbd_client
from tests.eventually import eventually

MIB = 1 << 20
SECTOR = 512
STILL = 0.5
"""Seconds without a write, after which there is none under way."""


@contextlib.contextmanager
def root_with_tap_ctl():
    """A short root directory (unix sockets) with tap-ctl, run by $SXM_LAB_PYTHON or else by this
    Python; no tapdisk outlives it."""
    root = tempfile.mkdtemp(prefix="blk-", dir="/tmp")
    try:
        os.makedirs(root + "/etc")
        scripts.write_interpreter(root, os.environ.get("SXM_LAB_PYTHON") or sys.executable)
        install.install(root)
        yield root
    finally:
        install.stop_all(root)
        shutil.rmtree(root)


@pytest.fixture
def root(monkeypatch):
    """Such a root, for dom0's code of the product, too."""
    with root_with_tap_ctl() as path:
        monkeypatch.setenv("SXM_ROOT", path)
        yield path


@pytest.fixture
def xcpng_root(monkeypatch):
    """Such a root, with the tapdisk of XCP-ng's better build, for dom0's code of the product,
    too."""
    with root_with_tap_ctl() as path:
        monkeypatch.setenv("SXM_ROOT", path)
        nbd_server.choose(path, nbd_server.STALLS)
        yield path


def qemu_img(*arguments):
    """Run qemu-img; what it printed."""
    return subprocess.run(
        ("qemu-img",) + arguments, check=True, stdout=subprocess.PIPE
    ).stdout.decode()


def image(path, size=16 * MIB, parent=None):
    """Make a qcow2 image and return how tap-ctl calls it."""
    backing = () if parent is None else ("-b", parent, "-F", "qcow2")
    qemu_img("create", "-q", "-f", "qcow2", *(backing + (path,) + (() if parent else (str(size),))))
    return "qcow2:" + path


def qemu_io(path, *commands):
    """Run qemu-io commands on an image that nobody has open. Fails if one does, or a pattern
    differs."""
    _qemu_io(("-f", "qcow2"), path, commands)


def nbd_io(path, *commands):
    """The same at a tapdisk's NBD socket."""
    _qemu_io(("-f", "raw"), "nbd+unix:///tapdisk_client?socket=" + path, commands)


def _qemu_io(options, name, commands):
    line = ("qemu-io",) + options + sum((("-c", command) for command in commands), ())
    done = subprocess.run(
        line + (name,), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60
    )
    assert done.returncode == 0 and b"failed" not in done.stdout, done.stdout.decode()


def same(one, other):
    """Whether two closed images hold the same data."""
    return subprocess.run(["qemu-img", "compare", "-q", one, other], check=False).returncode == 0


def tap_ctl(root, *arguments, **environment):
    """Run tap-ctl itself: (exit code, stdout, stderr)."""
    done = subprocess.run(
        [root + "/usr/sbin/tap-ctl"] + [str(word) for word in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
        env=dict(os.environ, **environment),
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def state(vbd):
    """Its state now."""
    return tapctl.list(pid=vbd.pid)[0].state


def record(root, vbd):
    """What the stand-in has on record of a vbd: looking at it does not poke the tapdisk, as
    `tap-ctl list` does."""
    return records.load(records.Layout(root), vbd.pid)


def reply_fifo(root, vbd):
    """The FIFO that exists while the reply to a pause is withheld."""
    return records.Layout(root).reply_fifo(vbd.pid)


def mirror_of(vbd):
    """The target that stats shows, or None."""
    images = tapctl.stats(vbd)["images"]
    return next((shown["name"] for shown in images if shown["driver"]["name"] == "nbd"), None)


class Writer:
    """Threads that write, remember what was acknowledged, and measure. Each thread owns a stripe of
    sectors, so that what a sector must hold is never in doubt; lengths are 512 B to 16 KiB, offsets
    are odd sectors too."""

    LENGTHS = (SECTOR, SECTOR, 4096, 16384)

    def __init__(self, path, threads=2, seed=1):
        self._stop = threading.Event()
        self.acknowledged = {}  # sector -> number of the last write that was acknowledged
        # sector -> number of the write that was not: one that was cut off may be there all the same
        self.unanswered = {}
        self.writes = 0
        self.failures = []
        self.stall = 0.0  # seconds that the longest write took
        self._latest = time.monotonic()  # when something was acknowledged
        clients = [nbd_client.connect(path) for _ in range(threads)]
        self.size = clients[0].size
        self._threads = [
            threading.Thread(
                target=self._run, args=(client, number, threads, random.Random(seed + number))
            )
            for number, client in enumerate(clients)
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def pattern(sector, number):
        return struct.pack("<QQ", sector, number) * (SECTOR // 16)

    def _run(self, client, own, count, dice):
        stripe = self.size // count // SECTOR
        number = own
        try:
            while not self._stop.is_set():
                number += count
                sectors = dice.choice(self.LENGTHS) // SECTOR
                first = own * stripe + dice.randrange(stripe - sectors)
                data = b"".join(
                    self.pattern(sector, number) for sector in range(first, first + sectors)
                )
                written = dict.fromkeys(range(first, first + sectors), number)
                self.unanswered.update(written)
                started = time.monotonic()
                client.write(first * SECTOR, data)
                self._latest = time.monotonic()
                self.stall = max(self.stall, self._latest - started)
                self.writes += 1
                self.acknowledged.update(written)
                for sector in written:
                    del self.unanswered[sector]
            client.disconnect()
        except Exception as error:  # pylint: disable=broad-except -- the test asks for it
            self.failures.append(error)

    def wait_for_writes(self, count=50, seconds=60.0):
        """Wait until `count` more writes were acknowledged."""
        goal = self.writes + count
        eventually(lambda: self.writes >= goal or self.failures, "%d more writes" % count, seconds)
        assert not self.failures, self.failures

    def wait_for_stillness(self):
        """Wait until nothing is acknowledged any more: what was under way when the target began to
        hang may be."""
        begun = time.monotonic()
        eventually(
            lambda: time.monotonic() - max(begun, self._latest) > STILL, "nothing is written"
        )

    def finish(self):
        """Stop, and fail if a write did."""
        self.stop()
        assert not self.failures, self.failures

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(40)
            assert not thread.is_alive(), "a write hangs"

    def missing(self, path):
        """How many acknowledged sectors the disk at NBD socket `path` does not hold."""
        client = nbd_client.connect(path)
        step = 256
        wrong = 0
        for first in range(0, self.size // SECTOR, step):
            wanted = [
                (sector, self.acknowledged[sector])
                for sector in range(first, first + step)
                if sector in self.acknowledged
            ]
            if wanted:
                data = bytes(client.read(first * SECTOR, step * SECTOR))
                wrong += sum(
                    data[(sector - first) * SECTOR : (sector - first + 1) * SECTOR]
                    not in self._allowed(sector, number)
                    for sector, number in wanted
                )
        client.disconnect()
        return wrong

    def _allowed(self, sector, number):
        """What may be in a sector whose last acknowledged write is that `number`."""
        numbers = {number, self.unanswered.get(sector, number)}
        return [self.pattern(sector, one) for one in numbers]


class Relay:
    """Passes bytes between a unix socket and another one; can be held (as a target that hangs) and
    cut."""

    def __init__(self, path, target):
        self.path = path
        self._target = target
        self._flow = threading.Event()
        self._flow.set()
        self._sockets = []
        self.connections = 0
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen(4)
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self):
        while True:
            try:
                client = self._listening.accept()[0]
            except OSError:
                return
            self.connections += 1
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            self._sockets += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink)).start()

    def _pump(self, source, sink):
        try:
            while True:
                data = source.recv(65536)
                self._flow.wait()
                if not data:
                    break
                sink.sendall(data)
        except OSError:
            pass
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def hang(self):
        """Pass nothing on."""
        self._flow.clear()

    def flow(self):
        self._flow.set()

    def cut(self):
        """Close all connections and listen no more."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._accepting.join(60)
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._flow.set()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def free_port():
    """A TCP port of the loopback on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    """Whether somebody listens on `port` of the loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
