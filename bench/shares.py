# SPDX-License-Identifier: LGPL-2.1-only
"""Several migrations at once over one link: whether each gets its share of it."""

import collections
import time

from bench import images, kernel_link, peers
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
    """{"half": what each has copied when half of all is, both of what was left to be copied when
    the last one began; "ends": seconds}"""
    with Stage(engine) as stage:
        raw = images.make(stage.path("raw"), case.size, images.whole(case.size))
        source = raw if engine.name == "lab" else engine.make(stage, "source", raw)
        keys = ["d%d" % number for number in range(case.copies)]
        new = {key: engine.blank(stage, "new-" + key, case.size) for key in keys}
        places = {key: (stage.disk(new[key], "to-" + key), case.size) for key in keys}
        python = kernel_link.python_within(stage, case.link)
        address = Receiver(stage, places, blank=True, python=python).address()
        movers = {key: Mover(stage, key, case.size, address, python=python) for key in keys}
        snapshots = {key: stage.disk(source, "from-" + key) for key in keys}
        began = time.monotonic()
        for key in keys:
            movers[key].copy(snapshots[key], images.data_of(raw), case.size, blank=True)
        return _follow(movers, case, began)


def _follow(movers, case, began):
    before = {key: copy["copied"] for key, copy in _copies(movers).items()}
    half, ends = None, {}
    while len(ends) < len(movers):
        now, copies = time.monotonic() - began, _copies(movers)
        assert now < BOUND, "%d of %d copies have ended" % (len(ends), len(movers))
        if half is None:
            parts = [
                (copy["copied"] - before[key]) / (case.size - before[key])
                for key, copy in copies.items()
            ]
            half = parts if sum(parts) >= len(parts) / 2 else None
        for key, copy in copies.items():
            if copy["state"] == "done":
                ends.setdefault(key, now)
        time.sleep(POLL)
    return {"half": half, "ends": sorted(ends.values())}


def _copies(movers):
    copies = {key: mover.ask("status")["copy"] for key, mover in movers.items()}
    assert all(copy["state"] in ("running", "done") for copy in copies.values()), copies
    return copies


def run(engine, effort, rounds, tell):
    """The samples of all `rounds`. `tell`: as the other parts have it."""
    samples = []
    for case in effort:
        for number in range(rounds):
            tell("shares: %s, round %d" % (case.name, number + 1))
            sample = {"round": number, "scenario": case.name, "contestant": peers.OURS}
            try:
                sample.update(_once(engine, case))
            except (AssertionError, OSError, RuntimeError) as fault:  # such as: it is not root
                sample.update(error="failed: %r" % fault)
                tell("    " + sample["error"])
            samples.append(sample)
    return samples
