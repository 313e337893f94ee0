"""`python -m lab.storage_guest.pairs`: writes docs/storage-pairs.md from what `make test-storage` has measured (in build/storage-guest/results)."""
import glob
import json
import os
import sys

from lab.storage_guest import image, machine, services

PAGE = os.path.join(image.REPOSITORY, "docs/storage-pairs.md")
MIB = float(1 << 20)
HEAD = """# Every pair of SR types, measured

Made by `make test-storage ALL=1`, in the storage guest: a real kernel's LVM, ext4, NFS, iSCSI and Fibre Channel (FCoE), under emulation
on a machine that other work was using, so the times say nothing of a real host. A VM with a disk on each type of SR moves live, while it
writes; between pools each disk goes to the type so many places further, and in its pool to another SR of its own type. Sizes in MiB.

*copied*: the bulk copy, verified; *mirrored*: what the guest wrote meanwhile; *stall*: the longest that a mirrored write of the guest took,
and *pause* how long the VM stood still at the switch, in s; *move*: the whole VM's move, all five disks, in s; *differences*: bytes that
differ at the switch, and acknowledged writes that are missing afterwards; *left*: whatever stands at either side without need;
*occupied*: of its SR, by the logical volume (`lvs`) or the file's blocks (`du`), before and after. SRs on LVM are thick: their volumes are
fully allocated, with room for the image's metadata. A mirrored write may take 30 s here before its mirror counts as broken, and not 5 s
(`lab/dom0/patience.py`).

"""
COLUMNS = ("from", "to", "pool", "size", "copied", "mirrored", "stall", "pause", "move", "differences", "left", "occupied")


def rows():
    """What was measured, as the tests wrote it down, pair by pair."""
    found = []
    for path in sorted(glob.glob(os.path.join(machine.RESULTS, "pairs-*.json"))):
        with open(path) as results:
            found += json.load(results)
    return sorted(found, key=lambda row: (row["pool"] == "same", services.TYPES.index(row["from"]), services.TYPES.index(row["to"])))


def line(row):
    """A row of the table."""
    differences = "0" if row["equal"] and not row["missing"] else "disks %s, %d writes missing" % (
        "equal" if row["equal"] else "differ", row["missing"])
    return [row["from"], row["to"], row["pool"], "%.0f" % (row["size"] / MIB), "%.1f" % (row["copied"] / MIB), "%.2f" % (row["mirrored"] / MIB),
            "%.1f" % row["stall"], "%.1f" % row["pause"], "%.0f" % row["seconds"], differences, str(row["left"]),
            "%.1f -> %.1f" % (row["was"] / MIB, row["is"] / MIB)]


def main():
    measured = rows()
    if not measured:
        print("nothing was measured: make test-storage ALL=1", file=sys.stderr)
        return 1
    table = [COLUMNS, ["---"] * len(COLUMNS)] + [line(row) for row in measured]
    with open(PAGE, "w") as page:
        page.write(HEAD + "".join("| %s |\n" % " | ".join(cells) for cells in table))
    print("%s: %d pairs" % (PAGE, len(measured)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
