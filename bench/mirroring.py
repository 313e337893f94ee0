# SPDX-License-Identifier: LGPL-2.1-only
"""What a mirror costs a guest's writes, alone and while the disk is being copied beside it."""

import collections
import os
import shutil
import subprocess
import time

from bench import images
from bench.engines import url
from bench.guest import Guest, Load
from bench.rounds import turns
from bench.stage import Stage
from data_harness import Mover, Receiver
from tests.eventually import eventually

MIB = images.MIB
OURS, NONE, BASE = "this system", "no mirror", "tapdisk-like, stunnel"
SMALL = (Load("4k, depth 1", "4k", 1), Load("4k, depth 8", "4k", 8), Load("4k, depth 32", "4k", 32))
LARGE = (Load("64k, depth 8", "64k", 8), Load("1M, depth 4", "1M", 4))

SECONDS = {False: 45.0, True: 80.0}  # of one load, alone or beside a copy: no further round then

Effort = collections.namedtuple("Effort", "alone beside size copied seconds bound")
Effort.__doc__ = """Loads `alone` for so many `seconds` each on a disk of `size` bytes, and loads
`beside` a copy of a disk of `copied` bytes, which has `bound` seconds to end."""
FULL = Effort(SMALL + LARGE, SMALL[:2], 256 * MIB, 1024 * MIB, 3, 60.0)
UNDISTURBED = 60.0  # seconds that a copy may take to end when the guest has stopped
QUICK = Effort((SMALL[0], LARGE[0]), (SMALL[0],), 32 * MIB, 128 * MIB, 1, 5.0)


class NoMirror(object):
    """The guest alone."""

    def __init__(self, stage, guest, disk):
        self._guest = guest

    def start(self):
        self._guest.open()

    def end(self):
        self._guest.close()


class Ours(object):
    """Mover and receiver; the copy goes through them as well."""

    def __init__(self, stage, guest, disk):
        self._guest, self._disk = guest, disk
        destination = stage.disk(disk.destination, "destination")
        receiver = Receiver(stage, {"d": (destination, disk.size)}, blank=disk.snapshot is not None)
        self._mover = Mover(stage, "d", disk.size, receiver.address())
        stage.meter.stand("receiver", receiver.process.pid)
        stage.meter.stand("mover", self._mover.process.pid)
        self._snapshot = disk.snapshot and stage.disk(disk.snapshot, "snapshot")

    def start(self):
        self._guest.mirror(self._mover.secondary)

    def begin_copy(self):
        self._mover.copy(self._snapshot, [[0, self._disk.size]], self._disk.size, blank=True)

    def await_copy(self, bound):
        status = eventually(self._copied, "the copy ends", bound, poll=0.01)
        assert status["state"] == "done", status

    def _copied(self):
        status = self._mover.ask("status")["copy"]
        return None if status["state"] == "running" else status

    def end(self):
        self._guest.end_mirror()
        eventually(lambda: self._mover.ask("status")["state"] == "ended", "the mirror ends")


class Straight(object):
    """The engine's own mirror, straight to the destination on a unix socket."""

    def __init__(self, stage, guest, disk):
        self._guest, self._target = guest, stage.disk(disk.destination, "destination")

    def start(self):
        self._guest.mirror(self._target)

    def end(self):
        self._guest.end_mirror()


class Stunnel(object):
    """As xapi does it: the mirror through a pair of stunnels into the new leaf, the copy through
    another pair into a disk of its own, which becomes the leaf's parent."""

    def __init__(self, stage, guest, disk):
        self._stage, self._guest, self._disk = stage, guest, disk
        self._target = stage.stunnel("leaf", stage.disk(disk.destination, "destination"))
        self.parent = None
        if disk.snapshot:
            self._snapshot = stage.disk(disk.snapshot, "snapshot")
            self.parent = stage.engine.blank(stage, "parent", disk.size)
            served = stage.disk(self.parent, "destination's parent")
            self._copied = stage.stunnel("parent", served)

    def start(self):
        self._guest.mirror(self._target)

    def begin_copy(self):
        lab = self._stage.engine.mirrors_by_itself
        self._copying = self._stage.meter.start(
            "client",
            [["nbdcopy", "--destination-is-zero", url(self._snapshot), url(self._copied)]],
            codes=(0,) if lab else (0, 1),
            stderr=None if lab else subprocess.DEVNULL,
        )

    def await_copy(self, bound):
        self._copying(bound)

    def end(self):
        self._guest.end_mirror()


class Qemu(object):
    """QEMU's own mirror by its own TLS; it copies what is there by itself."""

    mode = "write-blocking"

    def __init__(self, stage, guest, disk):
        self._guest, self._full = guest, disk.snapshot is not None
        guest.connect(stage.serve_tls(disk.destination, "destination"), stage.pki())

    def start(self):
        if not self._full:
            self._guest.begin_mirror("none", self.mode)

    def begin_copy(self):
        self._guest.begin_mirror("full", self.mode)

    def await_copy(self, bound):
        self._guest.await_sync(bound)

    def end(self):
        self._guest.end_mirror()


class CopyDirty(Qemu):
    """The same, but a write is only noted, and copied later: once more, if it was copied before."""

    mode = "background"


Variant = collections.namedtuple("Variant", "name kind engines copies")
BOTH, LAB, TAPDISK = ("lab", "tapdisk"), ("lab",), ("tapdisk",)
VARIANTS = (
    # name, class, engines, whether it copies beside it
    Variant(NONE, NoMirror, BOTH, False),
    Variant(OURS, Ours, BOTH, True),
    Variant(BASE, Stunnel, BOTH, True),
    Variant("QEMU's mirror, unix", Straight, LAB, False),
    Variant("tapdisk's mirror, unix", Straight, TAPDISK, False),
    Variant("QEMU's mirror, TLS", Qemu, LAB, True),
    Variant("copy-dirty (QEMU, TLS)", CopyDirty, LAB, True),
)

Disk = collections.namedtuple("Disk", "size leaf snapshot destination")
Disk.__doc__ = "Images; `snapshot`: what the leaf held at the begin, None where nothing is copied."


def once(engine, base, variant, load, effort, beside):
    """One load under one mirror: what fio says, with "usage" and, beside a copy, "copy_seconds"
    (None: it did not end while the guest wrote). Raises AssertionError if the sides differ.

    `base`: (raw file, image) with what the disk holds at the begin."""
    raw, image = base
    size = os.path.getsize(raw)
    with Stage(engine) as stage:
        leaf = shutil.copyfile(image, stage.path("leaf"))
        if beside and variant.kind is not Stunnel:
            destination = engine.blank(stage, "destination", size)
        else:  # what is there already, or will be in its parent
            destination = shutil.copyfile(image, stage.path("destination"))
        front = engine.guest(stage, leaf)
        stage.meter.stand("guest's engine", front.pid)
        disk = Disk(size, leaf, image if beside else None, destination)
        mirror = variant.kind(stage, front, disk)
        mirror.start()
        stage.meter.begin()
        if beside:
            guest = Guest(stage, front.socket, load, size)
            guest.await_writes(leaf)
            copied = _beside(mirror, effort.bound)
            guest.end()
            result = dict(guest.result(30.0), copy_seconds=copied)
            if copied is not None:
                result["iops"] = result["writes"] / copied
        else:
            result = Guest(stage, front.socket, load, size, effort.seconds).result(
                effort.seconds + 30.0
            )
        result["usage"] = stage.meter.end()
        whole = not beside or copied is not None
        if not whole and variant.kind is not Stunnel:  # whose copy has been killed by now
            mirror.await_copy(UNDISTURBED)
        mirror.end()
        if variant.kind is not NoMirror:
            assert engine.alike(leaf, destination), "%s: not the same" % variant.name
        if beside and whole and variant.kind is Stunnel:
            assert engine.same(raw, mirror.parent), "%s: the parent differs" % variant.name
    return result


def _beside(mirror, bound):
    """Seconds that the copy took; None if it did not end in its time."""
    began = time.monotonic()
    mirror.begin_copy()
    try:
        mirror.await_copy(bound)
    except (AssertionError, subprocess.TimeoutExpired):
        if time.monotonic() - began < bound:
            raise
        return None
    return time.monotonic() - began


def run(engine, effort, rounds, tell):
    """The samples of all `rounds`. Their "scenario" is a load, their "beside" whether a copy went
    on; `tell`: called with a line for people. Beside whom a copy does not end, is asked once."""
    samples = []
    variants = [variant for variant in VARIANTS if engine.name in variant.engines]
    for beside in (False, True):
        size = effort.copied if beside else effort.size
        with Stage(engine) as stage:
            raw = images.make(stage.path("raw"), size, images.whole(size))
            base = (raw, raw if engine.name == "lab" else engine.make(stage, "image", raw))
            for load in effort.beside if beside else effort.alone:
                taking_part = [one for one in variants if one.copies or not beside]
                endless = set()
                for number, variant in turns(rounds, taking_part, SECONDS[beside]):
                    if variant in endless:
                        continue
                    where = "%s%s" % (load.name, " beside a copy" if beside else "")
                    tell("mirror: %s, round %d: %s" % (where, number + 1, variant.name))
                    sample = {"round": number, "scenario": load.name, "beside": beside}
                    sample.update(contestant=variant.name, mib=size / MIB)
                    try:
                        sample.update(once(engine, base, variant, load, effort, beside))
                    except (AssertionError, OSError, RuntimeError, subprocess.SubprocessError) as e:
                        sample.update(error="failed: %r" % e, usage={})
                        tell("    " + sample["error"])
                    if sample.get("copy_seconds", 0) is None:
                        endless.add(variant)
                    samples.append(sample)
    return samples
