# SPDX-License-Identifier: LGPL-2.1-only
"""The pairs of SR types that disks move between. `python -m lab.storage_guest.pairs` has all of
them measured by the tests in the storage guest, with one guest for each processor, and writes
docs/storage-pairs.md."""

import collections
import concurrent.futures
import glob
import json
import os
import sys

from lab.storage_guest import image, machine, services

Pair = collections.namedtuple("Pair", "source target pool")
OTHER, SAME = "other", "same"
ALL = [Pair(source, target, OTHER) for source in services.TYPES for target in services.TYPES] + [
    Pair(sr_type, sr_type, SAME) for sr_type in services.TYPES
]
BOUND = 4 * 3600.0
"""Seconds for a guest's share of them."""
TESTS = "tests/storage/test_storage_moves.py::test_live"

PAGE = os.path.join(image.REPOSITORY, "docs/storage-pairs.md")
MIB = float(1 << 20)
HEAD = """# Every pair of SR types, measured

Made by `make test-storage ALL=1`, in the storage guest: a real kernel's LVM, ext4, NFS, iSCSI and Fibre Channel (FCoE), under emulation,
a guest for each processor, so the times say nothing of a real host. A VM with one disk moves live, while it writes; to another pool, or
within its pool to another SR on the same host. Sizes in MiB.

*copied*: the bulk copy, verified; *mirrored*: what the guest wrote meanwhile; *stall*: the longest that a mirrored write of the guest took,
and *pause* how long the VM stood still at the switch, in s; *move*: all of it, in s; *differences*: bytes that
differ at the switch, and acknowledged writes that are missing afterwards; *left*: whatever stands at either side without need;
*occupied*: of its SR, by the logical volume (`lvs`) or the file's blocks (`du`), before and after. SRs on LVM are thick: their volumes are
fully allocated, with room for the image's metadata. A mirrored write may take 30 s here before its mirror counts as broken, and not 5 s
(`lab/dom0/patience.py`).

"""  # noqa: E501
COLUMNS = (
    "from",
    "to",
    "pool",
    "size",
    "copied",
    "mirrored",
    "stall",
    "pause",
    "move",
    "differences",
    "left",
    "occupied",
)


def name(pair):
    """What $SXM_PAIRS calls a pair: "lvm-nfs"; within a pool "lvm-same"."""
    return "%s-%s" % (pair.source, SAME if pair.pool == SAME else pair.target)


def named(text):
    """The Pair of that name. Raises KeyError."""
    return {name(pair): pair for pair in ALL}[text]


def measure(pairs, number):
    """Have the pairs measured in a guest of one processor; the test's exit status, None if the
    guest died: what the others have measured counts all the same. What it says goes to a file."""
    with open(_output(number), "wb") as output:
        try:
            return machine.run(
                ["python3", "-m", "pytest", "-v", "-p", "no:cacheprovider", TESTS],
                BOUND,
                services.DISKS,
                {"SXM_PAIRS": " ".join(map(name, pairs))},
                processors=1,
                output=output,
            )
        except machine.GuestDied as error:
            print("guest %d: %s" % (number, error), file=sys.stderr)
            return None


def _output(number):
    return os.path.join(image.CACHE, "pairs-%d.out" % number)


def rows():
    """What was measured, as the tests wrote it down, pair by pair."""
    found = []
    for path in glob.glob(os.path.join(machine.RESULTS, "pair-*.json")):
        with open(path) as results:
            found.append(json.load(results))
    return sorted(found, key=lambda row: ALL.index(Pair(row["source"], row["target"], row["pool"])))


def line(row):
    """A row of the table."""
    differences = (
        "0"
        if row["equal"] and not row["missing"]
        else "disks %s, %d writes missing" % ("equal" if row["equal"] else "differ", row["missing"])
    )
    return [
        row["source"],
        row["target"],
        row["pool"],
        "%.0f" % (row["size"] / MIB),
        "%.1f" % (row["copied"] / MIB),
        "%.2f" % (row["mirrored"] / MIB),
        "%.1f" % row["stall"],
        "%.1f" % row["pause"],
        "%.0f" % row["seconds"],
        differences,
        str(row["left"]),
        "%.1f -> %.1f" % (row["before"] / MIB, row["after"] / MIB),
    ]


def main():
    for old in glob.glob(os.path.join(machine.RESULTS, "pair-*.json")):
        os.unlink(old)
    image.ensure()
    guests = os.cpu_count()
    print(
        "%d pairs in %d guests; what they say: %s"
        % (len(ALL), guests, " ".join(map(_output, range(guests)))),
        flush=True,
    )
    with concurrent.futures.ThreadPoolExecutor(guests) as pool:
        ended = list(
            pool.map(measure, [ALL[number::guests] for number in range(guests)], range(guests))
        )
    measured = rows()
    table = [COLUMNS, ["---"] * len(COLUMNS)] + [line(row) for row in measured]
    with open(PAGE, "w") as page:
        page.write(HEAD + "".join("| %s |\n" % " | ".join(cells) for cells in table))
    print("%s: %d of %d pairs; the tests ended with %s" % (PAGE, len(measured), len(ALL), ended))
    return 0 if len(measured) == len(ALL) and not any(code != 0 for code in ended) else 1


if __name__ == "__main__":
    sys.exit(main())
