# SPDX-License-Identifier: LGPL-2.1-only
"""Several migrations at once over one link: whether each gets its share of it."""

import collections
import time

from bench import downtime, images, peers
from bench.stage import Stage
from data_harness import Mover, Receiver

MIB = 1 << 20
BOUND = 120.0  # seconds of all copies together
POLL = 0.01

Case = collections.namedtuple("Case", "name copies size link")
Case.__doc__ = """So many `copies` of disks of `size` bytes, each by a mover of its own; `link`:
bytes a second of all together."""

FULL = (Case("3 migrations", 3, 256 * MIB, 64 * MIB), Case("8 migrations", 8, 96 * MIB, 64 * MIB))
QUICK = (Case("2 migrations", 2, 16 * MIB, 32 * MIB),)


def _once(engine, case):
    """{"half": what each has copied of its disk when half of all is copied, "ends": seconds}"""
    with Stage(engine) as stage:
        raw = images.make(stage.path("raw"), case.size, images.whole(case.size))
        source = raw if engine.name == "lab" else engine.make(stage, "source", raw)
        keys = ["d%d" % number for number in range(case.copies)]
        new = {key: engine.blank(stage, "new-" + key, case.size) for key in keys}
        places = {key: (stage.disk(new[key], "to-" + key), case.size) for key in keys}
        receiver = Receiver(stage, places, blank=True)
        address = receiver.address()
        address["port"] = downtime.link(stage, address["port"], case.link)
        movers = {key: Mover(stage, key, case.size, address) for key in keys}
        snapshots = {key: stage.disk(source, "from-" + key) for key in keys}
        began = time.monotonic()
        for key in keys:
            movers[key].copy(snapshots[key], images.data_of(raw), case.size, blank=True)
        return _follow(movers, case, began)


def _follow(movers, case, began):
    half, ends = None, {}
    while len(ends) < len(movers):
        now = time.monotonic() - began
        assert now < BOUND, "%d of %d copies have ended" % (len(ends), len(movers))
        copies = {key: mover.ask("status")["copy"] for key, mover in movers.items()}
        parts = [copy["copied"] / case.size for copy in copies.values()]
        if half is None and sum(parts) >= len(parts) / 2:
            half = parts
        for key, copy in copies.items():
            assert copy["state"] in ("running", "done"), copy
            if copy["state"] == "done":
                ends.setdefault(key, now)
        time.sleep(POLL)
    return {"half": half, "ends": sorted(ends.values())}


def run(engine, effort, rounds, tell):
    """The samples of all `rounds`. `tell`: as the other parts have it."""
    samples = []
    for case in effort:
        for number in range(rounds):
            tell("shares: %s, round %d" % (case.name, number + 1))
            sample = {"round": number, "scenario": case.name, "contestant": peers.OURS}
            sample.update(_once(engine, case))
            samples.append(sample)
    return samples
