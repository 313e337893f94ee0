# SPDX-License-Identifier: LGPL-2.1-only
"""What serves the disks and mirrors the guest's writes: the lab's engine (qemu-nbd and
qemu-storage-daemon), or the real tapdisk.

An engine has

    name, largest (bytes of a disk), mirrors_by_itself (TLS and a copy of its own)
    make(site, name, raw)      an image with the content of the raw file `raw`; its path
    blank(site, name, size)    an empty one; its path
    serve(site, image)         (pid, path of its NBD socket)
    source(image)              how qemu-img and qemu-nbd name an image: (file or NBD URL, format)
    guest(site, image)         a Guest
    same(raw, image)           whether the image has the content of the raw file
    alike(one, other)          whether two images have the same content
"""

import contextlib
import os
import shutil
import subprocess

from bench import images
from data_harness import Monitor, connectable
from tests.eventually import eventually

EXPORT = "tapdisk_client"
NODE = "leaf"
JOB = "mirror"


def url(socket):
    """The NBD URL of a disk served at a unix socket."""
    return "nbd+unix:///%s?socket=%s" % (EXPORT, socket)


class StorageDaemon(object):
    """A guest's disk in a qemu-storage-daemon, which plays tapdisk."""

    def __init__(self, site, image):
        self.socket, monitor = site.path("guest.nbd"), site.path("guest.monitor")
        self.process = site.start(
            [
                "qemu-storage-daemon",
                "--chardev",
                "socket,id=m,path=%s,server=on,wait=off" % monitor,
                "--monitor",
                "chardev=m",
                "--nbd-server",
                "addr.type=unix,addr.path=" + self.socket,
                "--blockdev",
                "driver=raw,node-name=%s,cache.direct=on,file.driver=file,file.cache.direct=on,"
                "file.filename=%s" % (NODE, image),
                "--export",
                "type=nbd,id=e,node-name=%s,name=%s,writable=on" % (NODE, EXPORT),
            ]
        )
        self.pid = self.process.pid
        eventually(lambda: connectable(self.socket), "qemu-storage-daemon listens")
        self._qmp = Monitor(monitor)

    def open(self):
        """Open the disk, without a mirror: it is."""

    def close(self):
        """Close the disk: it is at the end of the stage."""

    def connect(self, target, tls=None):
        """Connect to `target`, the path of a unix socket or a port of this machine. `tls`: the
        directory with the certificate to trust."""
        node = {"node-name": "target", "driver": "nbd", "export": EXPORT}
        node["server"] = (
            {"type": "unix", "path": target}
            if isinstance(target, str)
            else {"type": "inet", "host": "127.0.0.1", "port": str(target)}
        )
        if tls:
            self._qmp.execute(
                "object-add", id="tls", dir=tls, endpoint="client", **{"qom-type": "tls-creds-x509"}
            )
            node["tls-creds"] = "tls"
        self._qmp.execute("blockdev-add", **node)

    def mirror(self, target):
        """Mirror each write to the unix socket `target`, before it is answered."""
        self.connect(target)
        self.begin_mirror()

    def begin_mirror(self, sync="none", mode="write-blocking"):
        """Begin to mirror to where it is connected. `sync`: "full" copies what is there as well.
        `mode`: "background" only notes what was written, and copies that later."""
        self._qmp.execute(
            "blockdev-mirror",
            device=NODE,
            target="target",
            sync=sync,
            granularity=65536,
            **{"job-id": JOB, "copy-mode": mode, "auto-dismiss": False},
        )

    def job(self):
        """(whether the mirror is in sync, bytes that it has still to copy)"""
        jobs = self._qmp.execute("query-jobs")
        assert jobs and not jobs[0].get("error"), jobs
        left = jobs[0]["total-progress"] - jobs[0]["current-progress"]
        return jobs[0]["status"] == "ready", left

    def await_sync(self, timeout=60.0):
        """Wait until the mirror is in sync."""
        eventually(lambda: self.job()[0], "the mirror is in sync", timeout, poll=0.005)

    def end_mirror(self, timeout=60.0):
        """End the mirror in sync: both sides are the same then, if the guest has stopped."""
        self.await_sync(timeout)
        self._qmp.execute("block-job-cancel", device=JOB)
        eventually(self._concluded, "the mirror ends", timeout, poll=0.005)
        self._qmp.execute("job-dismiss", id=JOB)
        self._qmp.execute("blockdev-del", **{"node-name": "target"})

    def _concluded(self):
        (job,) = self._qmp.execute("query-jobs")
        assert not job.get("error"), job
        return job["status"] == "concluded"


class Lab(object):
    """qemu-nbd at both ends, qemu-storage-daemon below the guest; raw images."""

    name = "lab"
    what = "qemu-storage-daemon and qemu-nbd, raw images on a disk in memory"
    largest = 2048 * images.GIB
    mirrors_by_itself = True

    def make(self, site, name, raw):
        path = site.path(name)
        subprocess.check_call(["cp", "--sparse=always", raw, path])
        return path

    def blank(self, site, name, size):
        return images.make(site.path(name), size)

    def serve(self, site, image):
        process, socket = site.serve(image, cache="none")  # past the page cache, as tapdisk does
        return process.pid, socket

    def source(self, image, socket):
        return url(socket), "raw"

    def guest(self, site, image):
        return StorageDaemon(site, image)

    def same(self, raw, image):
        return images.same(raw, image)

    alike = same

    def close(self):
        pass


class TapdiskGuest(object):
    """A guest's disk in a real tapdisk."""

    def __init__(self, engine, site, image):
        self._engine, self._image = engine, image
        self._process, self._minor = engine.spawn(site)
        self.pid = self._process.pid
        self.socket = engine.socket(self.pid, self._minor)

    def open(self, target=None):
        """Open the disk, mirrored to the NBD socket `target` unless that is None."""
        arguments = ["-a", "vhd:" + self._image]
        arguments += ["-2", "nbd:" + target] if target else []
        self._engine.control("open", self.pid, self._minor, *arguments)
        stats = self._engine.control("stats", self.pid, self._minor)
        assert (b'"nbd"' in stats) == (target is not None), stats
        eventually(lambda: os.path.exists(self.socket), "tapdisk listens")

    def mirror(self, target):
        """The disk, mirrored to the NBD socket `target`."""
        self.open(target)

    def close(self, timeout=60.0):
        """Close the disk, and so the mirror."""
        self._engine.end(self._process, self._minor, timeout)

    end_mirror = close


class Tapdisk(object):
    """The real tapdisk at both ends and below the guest; VHDs on a disk in memory."""

    name = "tapdisk"
    what = "tapdisk, VHDs on a disk in memory"
    largest = 2040 * images.GIB  # of a VHD
    mirrors_by_itself = False

    def __init__(self, program):
        self._program = os.path.abspath(program)
        self._tap_ctl, self._vhd_util = (self._beside(name) for name in ("tap-ctl", "vhd-util"))
        self._processes = []  # (Popen, minor)

    def _beside(self, name):
        """The program `name` of the same blktap: installed, in its build tree, or in the path."""
        home = os.path.dirname(self._program)
        for place in (".", "../sbin", "../bin", "../../sbin", "../control", "../vhd"):
            path = os.path.join(home, place, name)
            if os.access(path, os.X_OK):
                return path
        found = shutil.which(name)
        if not found:
            raise SystemExit("no %s beside %s, nor in the path" % (name, self._program))
        return found

    def _tap(self, *arguments):
        return subprocess.check_output(
            [self._tap_ctl, *map(str, arguments)], timeout=60, stderr=subprocess.STDOUT
        )

    def control(self, command, pid, minor, *arguments):
        """What `tap-ctl COMMAND -p PID -m MINOR...` prints."""
        return self._tap(command, "-p", pid, "-m", minor, *arguments)

    def socket(self, pid, minor):
        """Where tapdisk serves that disk."""
        return "/run/blktap-control/nbd%d.%d" % (pid, minor)

    def spawn(self, site):
        """A tapdisk with a minor, and no disk yet: (Popen, minor). Not by `tap-ctl spawn`, which
        has the path of its own one built in."""
        minor = int(self._tap("allocate").decode().rpartition("-")[2])
        process = site.start([self._program, "-D"])
        control = "/run/blktap-control/ctl%d" % process.pid
        eventually(lambda: os.path.exists(control) or process.poll() is not None, "tapdisk listens")
        try:
            self.control("attach", process.pid, minor)
        except (OSError, subprocess.SubprocessError):
            self._tap("free", "-m", minor)
            raise RuntimeError("tapdisk does not run: " + site.complaints())
        self._processes.append((process, minor))
        return process, minor

    def end(self, process, minor, timeout=60.0):
        """Close the disk, and end its tapdisk."""
        if process.poll() is None:
            self.control("destroy", process.pid, minor)
            process.wait(timeout)
        else:
            self._tap("free", "-m", minor)
        self._processes.remove((process, minor))

    def make(self, site, name, raw):
        image = self.blank(site, name, os.path.getsize(raw))
        process, minor, socket = self._open(site, image)
        # 1: its goodbye is always answered by a greeting, which nbdcopy does not know
        code = subprocess.call(
            ["nbdcopy", "--destination-is-zero", raw, url(socket)], stderr=subprocess.DEVNULL
        )
        assert code in (0, 1), code
        self.end(process, minor)
        assert self.same(raw, image)
        return image

    def blank(self, site, name, size):
        path = site.path(name)
        subprocess.check_call([self._vhd_util, "create", "-n", path, "-s", str(size // images.MIB)])
        return path

    def _open(self, site, image):
        process, minor = self.spawn(site)
        self.control("open", process.pid, minor, "-a", "vhd:" + image)
        return process, minor, self.socket(process.pid, minor)

    def serve(self, site, image):
        process, _, socket = self._open(site, image)
        return process.pid, socket

    def source(self, image, socket):
        return image, "vpc"  # qemu's block status ends a connection with tapdisk

    def guest(self, site, image):
        return TapdiskGuest(self, site, image)

    def same(self, raw, image):
        return self._compare(raw, "raw", image)

    def alike(self, one, other):
        return self._compare(one, "vpc", other)

    def _compare(self, one, form, image):
        command = ["qemu-img", "compare", "-U", "-f", form, "-F", "vpc", one, image]
        return subprocess.call(command, stdout=subprocess.DEVNULL) == 0

    def close(self):
        """End what is left; free its minors."""
        for process, minor in list(self._processes):
            self.end(process, minor)
        with contextlib.suppress(OSError):  # its metrics, unless another tapdisk has some
            os.rmdir("/dev/shm/metrics")
