# SPDX-License-Identifier: LGPL-2.1-only
"""How long it takes to learn which parts of a VHD hold data, of the largest one that is full.

Tapdisk keeps a map of the blocks that are full (block-vhd.c, set_batmap). A VHD of others may lack
it: then the bitmap of each block has to be read, a million of them."""

import collections
import os
import struct
import subprocess
import sys

from bench import REPOSITORY, peers
from bench.rounds import turns
from bench.stage import Stage
from vhd_builder import BLOCK, SECTOR, Vhd

GIB = 1 << 30
BOUND = 300.0  # seconds of one look
BITMAP = BLOCK // SECTOR // 8  # bytes, before the data of each block
TABLE = 3 * SECTOR  # where the builder puts the table of blocks
CODE = """
import sys, time
from storage_motion.dom0 import vhd
began = time.monotonic()
with vhd.ranges(sys.argv[1]) as (size, ranges):
    found = sum(end - start for start, end in ranges)
print(time.monotonic() - began, found)
"""

Case = collections.namedtuple("Case", "name size mapped")
Case.__doc__ = "A VHD of `size` bytes, all of it data; `mapped`: with a map of the full blocks."

ENGINE = "none: the images alone, in memory"
FULL = (
    Case("2040 GiB, full", 2040 * GIB, True),
    Case("the same, without the map of full blocks", 2040 * GIB, False),
)
QUICK = (Case("8 GiB, full", 8 * GIB, True), Case("the same, without", 8 * GIB, False))


def _make(path, case):
    """The image of a Case, of which only the metadata take room."""
    built = Vhd(path, case.size)
    built.creator, built.version = b"tap\0", 0x10003  # whose map is believed
    built.full = range(built.entries) if case.mapped else None
    built.write()
    at = -(-os.path.getsize(path) // SECTOR) * SECTOR
    places = [at + number * (BITMAP + BLOCK) for number in range(built.entries)]
    with open(path, "r+b") as image:
        image.seek(TABLE)
        image.write(struct.pack(">%dI" % len(places), *(place // SECTOR for place in places)))
        for place in () if case.mapped else places:
            os.pwrite(image.fileno(), b"\xff" * BITMAP, place)
        image.seek(at + built.entries * (BITMAP + BLOCK))
        image.write(built.footer())
    return path


def _look(python, path, size):
    environment = dict(os.environ, PYTHONPATH=REPOSITORY)
    told = subprocess.run(
        [python, "-c", CODE, path],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        timeout=BOUND,
        text=True,
    ).stdout
    seconds, found = told.split()
    assert int(found) == size, "%s bytes of data in a disk of %d" % (found, size)
    return {"seconds": float(seconds)}


def run(engine, effort, rounds, tell):
    """The samples of all `rounds`. `tell`: as the other parts have it."""
    samples = []
    pythons = [(peers.OURS, sys.executable), (peers.OURS_36, peers.python36())]
    pythons = [(name, python) for name, python in pythons if python]
    for case in effort:
        with Stage(engine) as stage:
            path = _make(stage.path("full.vhd"), case)
            for number, (name, python) in turns(rounds, pythons):
                tell("extents: %s, round %d: %s" % (case.name, number + 1, name))
                sample = {"round": number, "scenario": case.name, "contestant": name}
                sample.update(_look(python, path, case.size))
                samples.append(sample)
    return samples
