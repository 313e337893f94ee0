# SPDX-License-Identifier: LGPL-2.1-only
"""How long a copy takes, and what it costs: one disk that is full, in part, or nearly empty, and
many disks at once; each peer, each in its turn."""

import collections
import subprocess
import time

from bench import images, peers
from bench.rounds import turns
from bench.stage import Stage

Scenario = collections.namedtuple("Scenario", "name size disks extents")
Scenario.__doc__ = """`disks` disks of `size` bytes each, whose data is in `extents(size)`."""

GIB, MIB = images.GIB, images.MIB
FULL = (
    Scenario("1 GiB, full", GIB, 1, images.whole),
    Scenario("1 GiB, 40% full", GIB, 1, lambda size: images.scattered(size, 0.4)),
    Scenario("2 TiB with 1 GiB", 2048 * GIB, 1, lambda size: images.spread(size, GIB)),
    Scenario("4 disks, 1 GiB together", GIB // 4, 4, images.whole),
    Scenario("16 disks, 1 GiB together", GIB // 16, 16, images.whole),
)
QUICK = (
    Scenario("64 MiB, full", 64 * MIB, 1, images.whole),
    Scenario("64 MiB, 40% full", 64 * MIB, 1, lambda size: images.scattered(size, 0.4)),
    Scenario("2 TiB with 64 MiB", 2048 * GIB, 1, lambda size: images.spread(size, 64 * MIB)),
    Scenario("4 disks, 64 MiB together", 16 * MIB, 4, images.whole),
)

SECONDS = 90.0  # of one scenario, behind which no further round begins


def data_in(scenario):
    """MiB of data that a scenario's disks hold together."""
    each = sum(min(length, scenario.size - at) for at, length in scenario.extents(scenario.size))
    return scenario.disks * each / MIB


def once(engine, sources, peer):
    """One copy of the `sources`, a list of (key, size, raw file, image): {"seconds", "usage"}.
    Raises AssertionError if any destination is not the same as its source."""
    with Stage(engine) as stage:
        disks = [
            peers.Disk(
                key,
                size,
                raw,
                image,
                stage.disk(image, "source"),
                engine.blank(stage, "destination-" + key, size),
            )
            for key, size, raw, image in sources
        ]
        copy = peer.prepare(stage, disks)
        stage.meter.begin()
        began = time.monotonic()
        copy()
        seconds = time.monotonic() - began
        usage = stage.meter.end()
        usage.pop("ticket", None)
        for disk in disks:
            assert engine.same(disk.raw, disk.destination), "%s: not the same" % peer.name
    return {"seconds": seconds, "usage": usage}


def run(engine, scenarios, rounds, tell):
    """The samples of all `rounds`; `tell`: called with a line for people. A peer that fails, or
    does not end in its time, has an "error" in its sample, and is not asked again."""
    samples = []
    contestants = [
        peer for peer in peers.PEERS if engine.name in peer.engines and peers.installed(peer)
    ]
    for scenario in scenarios:
        scenario = scenario._replace(size=min(scenario.size, engine.largest))
        given_up = set()
        with Stage(engine) as stage:
            sources = []
            for number in range(scenario.disks):
                raw = images.make(
                    stage.path("raw-%d" % number), scenario.size, scenario.extents(scenario.size)
                )
                image = raw
                if engine.name != "lab":
                    image = engine.make(stage, "source-%d" % number, raw)
                sources.append(("disk-%d" % number, scenario.size, raw, image))
            for number, peer in turns(rounds, contestants, SECONDS):
                if peer.name in given_up:
                    continue
                tell("copy: %s, round %d: %s" % (scenario.name, number + 1, peer.name))
                sample = {"round": number, "scenario": scenario.name, "contestant": peer.name}
                sample["mib"] = data_in(scenario)
                try:
                    sample.update(once(engine, sources, peer))
                except (TimeoutError, subprocess.TimeoutExpired):
                    sample.update(seconds=None, usage={}, error="over %d s" % peers.BOUND)
                except (AssertionError, OSError, RuntimeError, subprocess.SubprocessError) as fault:
                    sample.update(seconds=None, usage={}, error="failed: %r" % fault)
                if "error" in sample:
                    given_up.add(peer.name)
                    tell("    " + sample["error"])
                samples.append(sample)
    return samples
