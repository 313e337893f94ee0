# SPDX-License-Identifier: LGPL-2.1-only
"""Boots the storage guest under qemu's emulation and runs one command inside: its output here, its
exit status back."""

import collections
import os
import shlex
import shutil
import subprocess
import tempfile

from lab.storage_guest import image

QEMU = "qemu-system-x86_64"
# KVM cannot boot Debian's kernel on every machine that CI may have; emulation can.
# (docs/facts/storage-vm.md, 1)
EMULATION = ("-accel", "tcg,thread=multi,tb-size=512", "-machine", "q35", "-cpu", "Nehalem")
PROCESSORS = 2
MEMORY = 3072
"""MiB."""
SLOWER = 6
"""How many times longer the lab's daemons take to start in here: $SXM_LAB_PATIENCE inside."""
BOOT = 180.0
"""Seconds beside the command's own bound: for booting, and for powering off."""
# norandmaps: emulation translates a program's code anew wherever it comes to lie; at one address, a
# Python starts twice as fast. no_timer_check: on a busy machine the kernel may find its timer not
# ticking as it boots, and panic.
KERNEL = (
    "no_timer_check console=ttyS0 quiet panic=-1 mitigations=off norandmaps net.ifnames=0 "
    "scsi_mod.scan=sync"
)
RESULTS = os.path.join(image.CACHE, "results")
"""Where what a command leaves in /mnt/share/results inside comes to lie."""

Disk = collections.namedtuple("Disk", "name size")
"""An empty disk of `size` bytes; inside it is /dev/disk/by-id/virtio-<name>."""


class GuestDied(Exception):
    """The guest ended, or was ended, before its command did; the text has the end of its
    console."""


def run(command, bound, disks=(), environment=None, processors=PROCESSORS, output=None):
    """Run `command` (a list) in the repository, as root, inside a fresh guest. Returns its exit
    status (124: it took longer than `bound` s). Its output goes to `output`, an open file, or this
    process's own. Raises GuestDied."""
    parts = image.ensure()
    with tempfile.TemporaryDirectory(prefix="sxm-guest-") as directory:
        share = os.path.join(directory, "share")
        os.makedirs(os.path.join(share, "results"))
        _write(share, "settings", "BOUND=%d\n" % bound)
        environment = dict({"SXM_LAB_PATIENCE": str(SLOWER)}, **environment or {})
        exports = [
            "export %s=%s\n" % (name, shlex.quote(value))
            for name, value in sorted(environment.items())
        ]
        _write(
            share,
            "command",
            "".join(exports) + "exec " + " ".join(map(shlex.quote, command)) + "\n",
        )
        console = os.path.join(directory, "console.log")
        line = _qemu(parts, share, console, _make(directory, disks), processors)
        # the guest must not outlive us, however we end a pipe that nothing is ever written to: at
        # the end of its input qemu would take its output for gone, too
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL"] + line, stdin=subprocess.PIPE, stdout=output
        )
        try:
            process.wait(bound + BOOT)
        except subprocess.TimeoutExpired:
            raise GuestDied("no end within %d s\n%s" % (bound + BOOT, _tail(console))) from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdin.close()
            shutil.copytree(os.path.join(share, "results"), RESULTS, dirs_exist_ok=True)
        try:
            with open(os.path.join(share, "status")) as status:
                return int(status.read())
        except (FileNotFoundError, ValueError):
            raise GuestDied(
                "qemu ended with %d, the command did not\n%s" % (process.returncode, _tail(console))
            ) from None


def _qemu(parts, share, console, disks, processors):
    line = [
        QEMU,
        *EMULATION,
        "-smp",
        str(processors),
        "-m",
        str(MEMORY),
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-kernel",
        parts + "/vmlinuz",
        "-initrd",
        parts + "/initrd.img",
        "-append",
        KERNEL,
        "-serial",
        "file:" + console,
        "-device",
        "virtio-serial-pci",
        "-chardev",
        "stdio,id=output,signal=off",
        "-device",
        "virtserialport,chardev=output,name=output",
        "-device",
        "virtio-rng-pci",
        # the first of the disks: /dev/vda
        "-drive",
        "file=%s/root.ext4,if=none,id=root,format=raw,snapshot=on,cache=unsafe" % parts,
        "-device",
        "virtio-blk-pci,drive=root,serial=root",
        "-virtfs",
        "local,path=%s,mount_tag=repository,security_model=none,readonly=on,multidevs=remap"
        % image.REPOSITORY,
        "-virtfs",
        "local,path=%s,mount_tag=share,security_model=none" % share,
    ]
    for name, path in disks:
        line += [
            "-drive",
            "file=%s,if=none,id=%s,format=raw,cache=unsafe,discard=unmap,detect-zeroes=unmap"
            % (path, name),
            "-device",
            "virtio-blk-pci,drive=%s,serial=%s" % (name, name),
        ]
    return line


def _make(directory, disks):
    made = []
    for disk in disks:
        path = os.path.join(directory, disk.name + ".raw")
        with open(path, "wb") as new:
            new.truncate(disk.size)
        made.append((disk.name, path))
    return made


def _write(directory, name, text):
    with open(os.path.join(directory, name), "w") as out:
        out.write(text)


def _tail(path):
    with open(path, errors="replace") as console:
        return console.read()[-3000:]
