# SPDX-License-Identifier: LGPL-2.1-only
"""A guest that writes faster and faster, and a link of one speed: how long a move of its disk takes
and for how long the guest is stopped, by this system and by copy-dirty.

*This system* mirrors each write from the begin, and copies the rest beside it. *copy-dirty* copies,
then what was written meanwhile, then what was written meanwhile to that, until so little is left
that the link carries it in `STOPPED_FOR`; then it stops the guest and copies that. It is QEMU's
background mirror with its dirty bitmap. If it has not come to that within `PATIENCE` times what a
disk at rest takes, it stops the guest all the same.

The pause is that of the data only: from the guest's being told to stop to both sides being the
same, and here also the gate being open. Starting the VM at the other side comes to it, in both
systems alike.
"""

import collections
import shutil
import subprocess
import sys
import time

from bench import images
from bench.guest import Guest, Load
from bench.rounds import turns
from bench.stage import Stage, free_port
from data_harness import Mover, Receiver
from tests.eventually import eventually

MIB = images.MIB
OURS, DIRTY = "this system", "copy-dirty"
STOPPED_FOR = 0.3  # seconds: QEMU's default for downtime-limit
PATIENCE = 4.0
WRITES = Load("64k, depth 8", "64k", 8)  # as large as a bit of the dirty bitmap: kind to copy-dirty

Effort = collections.namedtuple("Effort", "size link rates hot")
Effort.__doc__ = """A disk of `size` bytes over a link of `link` bytes a second; the guest writes at
`rates`, each a part of the link's, all over the disk, or again and again to (`bytes`, rates)."""
FULL = Effort(192 * MIB, 64 * MIB, (0.0, 0.5, 0.75, 1.1, 1.5, 2.0), (16 * MIB, (0.5, 1.1, 2.0)))
QUICK = Effort(32 * MIB, 32 * MIB, (0.0, 0.5, 1.5), (4 * MIB, (1.5,)))

Case = collections.namedtuple("Case", "rate region where")
Case.__doc__ = "The guest's rate, as a part of the link's; where it writes, in bytes and in words."


def cases(effort):
    """The Cases of an effort."""
    everywhere = [Case(rate, effort.size, "whole disk") for rate in effort.rates]
    region, rates = effort.hot
    return everywhere + [Case(rate, region, "%d MiB" % (region // MIB)) for rate in rates]


def link(stage, port, rate):
    """The port of a link to `port`."""
    entry = free_port()
    stage.stand("link", [sys.executable, "-m", "bench.link", *map(str, (entry, port, rate))], entry)
    return entry


class Ours(object):
    """Mover and receiver."""

    def __init__(self, stage, front, effort, snapshot, destination):
        self._front, self._size = front, effort.size
        served = stage.disk(destination, "destination")
        self._receiver = Receiver(stage, {"d": (served, effort.size)}, blank=True)
        address = self._receiver.address()
        address["port"] = link(stage, address["port"], effort.link)
        self._mover = Mover(stage, "d", effort.size, address)
        self._snapshot = stage.disk(snapshot, "snapshot")

    def before(self):
        self._front.mirror(self._mover.secondary)
        self._front.await_sync()

    def begin(self):
        self._mover.copy(self._snapshot, [[0, self._size]], self._size, blank=True)

    def may_stop(self):
        """Whether the guest may be stopped now."""
        copy = self._mover.ask("status")["copy"]
        assert copy["state"] in ("running", "done"), copy
        return copy["state"] == "done"

    def finish(self):
        """The guest has stopped: both sides are the same when this returns."""
        self._front.end_mirror()
        eventually(
            lambda: self._mover.ask("status")["state"] == "ended", "the mirror ends", poll=0.002
        )
        assert self._mover.ask("finish") == {"ok": True}
        assert self._receiver.gate_opened("d")

    stops_anyway = False


class Dirty(object):
    """QEMU's background mirror, by its own TLS."""

    def __init__(self, stage, front, effort, snapshot, destination):
        self._front = front
        served = stage.serve_tls(destination, "destination")
        front.connect(link(stage, served, effort.link), stage.pki())
        self._little = effort.link * STOPPED_FOR

    def before(self):
        pass

    def begin(self):
        self._front.begin_mirror("full", "background")

    def may_stop(self):
        return self._front.job()[1] <= self._little

    def finish(self):
        self._front.end_mirror(120.0)

    stops_anyway = True


CONTESTANTS = ((OURS, Ours), (DIRTY, Dirty))


def once(engine, effort, case, kind, snapshot):
    """One move: {"seconds", "pause", "written": the guest's bytes a second meanwhile, or None,
    "stopped": "in time" or "anyway"}. "seconds" and "pause" are None if it did not come to an end.
    Raises AssertionError if the sides differ."""
    patience = PATIENCE * effort.size / effort.link
    with Stage(engine) as stage:
        leaf = shutil.copyfile(snapshot, stage.path("leaf"))
        destination = engine.blank(stage, "destination", effort.size)
        front = engine.guest(stage, leaf)
        system = kind(stage, front, effort, snapshot, destination)
        system.before()
        guest, started = None, time.monotonic()
        if case.rate:
            rate = int(case.rate * effort.link)
            guest = Guest(stage, front.socket, WRITES, case.region, rate=rate)
            guest.await_writes(leaf)
            started = time.monotonic()
        began = time.monotonic()
        system.begin()
        in_time = True
        while not system.may_stop():
            in_time = time.monotonic() - began < patience
            if not in_time:
                break
            time.sleep(0.01)
        stopped = time.monotonic()
        if guest:
            guest.end()
            guest.await_close()
        ended = None
        if in_time or kind.stops_anyway:
            system.finish()
            ended = time.monotonic()
            assert engine.alike(leaf, destination), "%s: not the same" % kind.__name__
        written = None
        if guest:
            guest.result(30.0)
            written = guest.rate_within(began - started, stopped - started)
    return {
        "seconds": ended and ended - began,
        "pause": ended and ended - stopped,
        "written": written,
        "stopped": "in time" if in_time else "anyway" if kind.stops_anyway else "never",
    }


def run(engine, effort, rounds, tell):
    """The samples of all `rounds`; "scenario" is where the guest writes, "rate" its rate as a part
    of the link's. `tell`: called with a line for people."""
    samples = []
    with Stage(engine) as stage:
        snapshot = images.make(stage.path("raw"), effort.size, images.whole(effort.size))
        for case in cases(effort):
            for number, (name, kind) in turns(rounds, CONTESTANTS):
                told = "downtime: %s at %g of the link, round %d: %s"
                tell(told % (case.where, case.rate, number + 1, name))
                sample = {"round": number, "scenario": case.where, "rate": case.rate}
                sample.update(contestant=name, asked=case.rate * effort.link, link=effort.link)
                try:
                    sample.update(once(engine, effort, case, kind, snapshot))
                except (AssertionError, OSError, RuntimeError, subprocess.SubprocessError) as fault:
                    sample.update(error="failed: %r" % fault)
                    tell("    " + sample["error"])
                samples.append(sample)
    return samples
