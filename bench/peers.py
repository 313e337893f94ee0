# SPDX-License-Identifier: LGPL-2.1-only
"""Who copies a disk: this system, and each peer.

A peer's `prepare(stage, disks)` starts what stands on both sides before a copy begins, and returns
the copy itself: a function of no arguments, which returns when all `disks` are copied. Every disk
at the destination reads as zeros before, and every peer is told so.
"""

import collections
import json
import os
import subprocess
import sys
import time

from bench import REPOSITORY, VENV, images
from bench.engines import EXPORT, url
from bench.stage import free_port
from data_harness import Mover, Receiver

BOUND = 90.0  # seconds of one copy

Disk = collections.namedtuple("Disk", "key size raw source served destination")
Disk.__doc__ = """A disk of `size` bytes. `raw`: a raw file with the source's content, which may be
the source itself; `source`, `destination`: images; `served`: NBD socket of the source."""

Peer = collections.namedtuple("Peer", "name prepare encrypts verifies mirrors engines")
Peer.__doc__ = """`encrypts`, `verifies`, `mirrors`: whether it does; `engines`: those that it can
work with."""

OURS = "this system"
OURS_36 = OURS + ", Python 3.6"
BASE = "nbdcopy, TLS"
UPLOAD = """
import sys
from ovirt_imageio import client
image, address, certificate = sys.argv[1:]
client.upload(image, address, certificate, disk_is_zero=True)
"""


def ours(stage, disks, python=sys.executable):
    """Mover to receiver by TLS, each run by `python`; all is read back and compared."""
    places = {disk.key: (stage.disk(disk.destination, "destination"), disk.size) for disk in disks}
    receiver = Receiver(stage, places, blank=True, python=python)
    stage.meter.stand("receiver", receiver.process.pid)
    movers = [
        Mover(stage, disk.key, disk.size, receiver.address(), python=python) for disk in disks
    ]
    for mover in movers:
        stage.meter.stand("mover", mover.process.pid)

    def copy():
        for mover, disk in zip(movers, disks):
            mover.copy(disk.served, images.data_of(disk.raw), disk.size, blank=True)
        deadline = time.monotonic() + BOUND
        for mover in movers:
            while mover.ask("status")["copy"]["state"] == "running":
                if time.monotonic() > deadline:
                    raise TimeoutError("%s in %d s" % (mover.ask("status")["copy"], BOUND))
                time.sleep(0.01)
            status = mover.ask("status")["copy"]
            assert status["state"] == "done", status

    return copy


def ours_on_36(stage, disks):
    """The same on the Python of XCP-ng 8.3's dom0."""
    return ours(stage, disks, python36())


def python36():
    """The path of a Python 3.6, or ""."""
    found = subprocess.run(
        [os.path.join(REPOSITORY, "tools/python_of.sh"), "3.6"], stdout=subprocess.PIPE, text=True
    )
    return found.stdout.strip()


def _nbdcopy(stage, disks, targets):
    """nbdcopy from each disk to its target."""
    # 1: tapdisk answers a goodbye with a greeting; the content is compared
    codes = (0,) if stage.engine.mirrors_by_itself else (0, 1)
    commands = [
        ["nbdcopy", "--destination-is-zero", url(disk.served), target]
        for disk, target in zip(disks, targets)
    ]
    quiet = None if codes == (0,) else os.open(os.devnull, os.O_WRONLY)
    return lambda: stage.meter.run("client", commands, BOUND, codes=codes, stderr=quiet)


def nbdcopy(stage, disks):
    return _nbdcopy(
        stage, disks, [url(stage.disk(disk.destination, "destination")) for disk in disks]
    )


def nbdcopy_tls(stage, disks):
    return _nbdcopy(
        stage,
        disks,
        [
            "nbds://127.0.0.1:%d/%s?tls-certificates=%s"
            % (stage.serve_tls(disk.destination, "destination"), EXPORT, stage.pki())
            for disk in disks
        ],
    )


def nbdcopy_stunnel(stage, disks):
    return _nbdcopy(
        stage,
        disks,
        [
            url(stage.stunnel(disk.key, stage.disk(disk.destination, "destination")))
            for disk in disks
        ],
    )


def _convert(stage, disks):
    """What qemu-img is told of each disk: (source, its format, destination)."""
    return [
        (
            *stage.engine.source(disk.source, disk.served),
            url(stage.disk(disk.destination, "destination")),
        )
        for disk in disks
    ]


def _conversion(source, form, target):
    command = "qemu-img convert -n --target-is-zero -W -m 8 -O raw -f".split()
    return [*command, form, source, target]


def convert(stage, disks):
    commands = [_conversion(*each) for each in _convert(stage, disks)]
    return lambda: stage.meter.run("client", commands, BOUND)


def convert_compare(stage, disks):
    told = _convert(stage, disks)
    copies = [_conversion(*each) for each in told]
    comparisons = [
        ["qemu-img", "compare", "-f", form, "-F", "raw", source, target]
        for source, form, target in told
    ]

    def copy():
        stage.meter.run("client", copies, BOUND)
        stage.meter.run("client", comparisons, BOUND)

    return copy


def imageio(stage, disks):
    """oVirt's upload: its daemon at the destination, by HTTPS, its client at the source, which has
    a qemu-nbd of its own read the image."""
    port, control = free_port(), stage.path("imageio.sock")
    home = stage.path("imageio")
    os.makedirs(os.path.join(home, "conf.d"))
    with open(os.path.join(home, "conf.d", "bench.conf"), "w") as target:
        target.write(
            "[daemon]\nrun_dir = {home}\ndrop_privileges = false\nsystemd_enable = false\n"
            "[tls]\nkey_file = {pki}/server-key.pem\ncert_file = {pki}/server-cert.pem\n"
            "ca_file = {pki}/ca-cert.pem\n[remote]\nhost = 127.0.0.1\nport = {port}\n"
            "[local]\nenable = false\n[control]\nsocket = {control}\n"
            "[logger_root]\nlevel = ERROR\nhandlers = stderr\n"
            "[handlers]\nkeys = stderr\n".format(
                home=home, pki=stage.pki(), port=port, control=control
            )
        )
    program = os.path.join(VENV, "bin", "ovirt-imageio")
    stage.stand("imageio's daemon", [program, "-c", home], path=control)
    commands = []
    for disk in disks:
        ticket = stage.path(disk.key + ".ticket")
        socket = stage.disk(disk.destination, "destination")
        with open(ticket, "w") as target:
            json.dump(
                {
                    "uuid": disk.key,
                    "size": disk.size,
                    "url": "nbd:unix:%s:exportname=%s" % (socket, EXPORT),
                    "timeout": 3600,
                    "ops": ["read", "write"],
                    "sparse": True,
                },
                target,
            )
        stage.meter.run("ticket", [[program + "ctl", "add-ticket", "-c", home, ticket]], 30.0)
        address = "https://127.0.0.1:%d/images/%s" % (port, disk.key)
        python = os.path.join(VENV, "bin", "python")
        trusted = os.path.join(stage.pki(), "ca-cert.pem")
        commands.append([python, "-c", UPLOAD, disk.source, address, trusted])
    return lambda: stage.meter.run("client", commands, BOUND)


BOTH, LAB = ("lab", "tapdisk"), ("lab",)
PEERS = (
    # name, prepare, encrypts, verifies, mirrors meanwhile, engines
    Peer(OURS, ours, True, True, True, BOTH),
    Peer(OURS_36, ours_on_36, True, True, True, BOTH),
    Peer(BASE, nbdcopy_tls, True, False, False, BOTH),
    Peer("nbdcopy, stunnel", nbdcopy_stunnel, True, False, False, BOTH),
    # four handshakes at once stop a tapdisk for good
    Peer("ovirt-imageio", imageio, True, False, False, LAB),
    Peer("nbdcopy", nbdcopy, False, False, False, BOTH),
    Peer("qemu-img convert", convert, False, False, False, BOTH),
    Peer("qemu-img convert, compare", convert_compare, False, True, False, LAB),
)


def installed(peer):
    """Whether the peer can run here."""
    if peer.prepare is ours_on_36:
        return bool(python36())
    return peer.prepare is not imageio or os.access(
        os.path.join(VENV, "bin", "ovirt-imageio"), os.X_OK
    )
