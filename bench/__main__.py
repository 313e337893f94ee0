# SPDX-License-Identifier: LGPL-2.1-only
"""The benches.

    python -m bench [--quick] [--rounds N] [--only copy,mirror,downtime,switch,shares,extents]
    python -m bench render

The first runs them, prints their tables, and writes build/bench/lab.json (or quick-lab.json), in
which the parts that are not run stay as they were. The engine is the lab's; with TAPDISK=, the path
of a built tapdisk, that one (tapdisk.json). Exit code 1 if anything failed, or was not copied
right. `render` puts the tables of lab.json and tapdisk.json into docs/performance.md, and the plot
beside it.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time

from bench import (
    BUILD,
    copying,
    document,
    downtime,
    engines,
    extents,
    machine,
    memory_disk,
    mirroring,
    sanity,
    shares,
    switch,
    tables,
)
from bench.stage import Stage

DISK, QUICK_DISK = 8 << 30, 1 << 30  # bytes in which the images of a run have room
FULL = (  # name, module, its effort, rounds
    ("copy", copying, copying.FULL, 3),
    ("mirror", mirroring, mirroring.FULL, 3),
    ("downtime", downtime, downtime.FULL, 2),
    ("switch", switch, switch.FULL, 2),
    ("shares", shares, shares.FULL, 2),
    ("extents", extents, extents.FULL, 2),
)
QUICK = (
    ("copy", copying, copying.QUICK, 1),
    ("mirror", mirroring, mirroring.QUICK, 1),
    ("downtime", downtime, downtime.QUICK, 1),
    ("switch", switch, switch.QUICK, 1),
    ("shares", shares, shares.QUICK, 1),
    ("extents", extents, extents.QUICK, 1),
)
# the other engine has no background mirror; and the lab's pools have their own
NEEDS = {"downtime": "lab", "switch": "lab", "extents": "lab"}


def engine_of(environment):
    """The engine that the environment names."""
    tapdisk = environment.get("TAPDISK")
    return engines.Tapdisk(tapdisk) if tapdisk else engines.Lab()


def measure(engine, options):
    """Run what is asked for; the result, which is written after each part."""
    path = os.path.join(BUILD, "%s%s.json" % ("quick-" if options.quick else "", engine.name))
    result = {"engine_name": engine.name, "runs": {}}
    if os.path.exists(path) and not options.quick:
        with open(path) as source:
            result = json.load(source)  # the parts that are not run now stay as they are
    os.makedirs(BUILD, exist_ok=True)
    for name, module, effort, rounds in QUICK if options.quick else FULL:
        if name not in options.only or NEEDS.get(name, engine.name) != engine.name:
            continue
        began = time.monotonic()
        run = {
            "when": time.strftime("%Y-%m-%d"),
            "engine": getattr(module, "ENGINE", engine.what),
            "effort": "quick" if options.quick else "full",
            "machine": machine.describe(),
            "rounds": options.rounds or rounds,
        }
        if engine.name == "tapdisk":  # which does not say
            run["machine"]["blktap"] = os.environ.get("TAPDISK_VERSION", "of an unnamed version")
        result[name] = module.run(engine, effort, run["rounds"], tell)
        run["minutes"] = (time.monotonic() - began) / 60
        result["runs"][name] = run
        with open(path, "w") as target:
            json.dump(result, target, indent=1)
    print("\nWritten to %s" % path)
    return result


def tell(line):
    """Say how far it is."""
    print("%s  %s" % (time.strftime("%H:%M:%S"), line), file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("command", nargs="?", choices=("run", "render"), default="run")
    parser.add_argument("--quick", action="store_true", help="small, one round: for its sanity")
    parser.add_argument("--rounds", type=int, help="of each part")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=[part[0] for part in FULL]
    )
    options = parser.parse_args()
    # so that what was started is ended
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if options.command == "render":
        document.render()
        return 0
    with contextlib.ExitStack() as undo:
        try:
            Stage.HOME = undo.enter_context(
                memory_disk.mounted(QUICK_DISK if options.quick else DISK)
            )
        except (OSError, subprocess.SubprocessError) as error:
            if not options.quick:
                raise SystemExit("no disk in memory for the images: %s" % error)
            tell("the images are plain files in %s: %s" % (Stage.HOME, error))
        result = measure(engine_of(os.environ), options)
    for text in tables.render(result).values():
        print("\n" + text)
    wrong = sanity.faults(result)
    for fault in wrong:
        print("*** %s" % fault)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
