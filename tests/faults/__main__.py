# SPDX-License-Identifier: LGPL-2.1-only
"""The campaign of faults: `python -m tests.faults`, which is what `make test-faults` runs.

Prints a line a run, and a table in the end; exits with 1 if a run has failed. A failed run prints
its seed, and leaves the logs of its hosts in build/faults/<seed>.
"""

import argparse
import concurrent.futures
import itertools
import multiprocessing
import os
import sys
import time

from tests.faults import cases, kinds, report
from tests.faults.workers import Worker, one_series

AT_ONCE = 2 * os.cpu_count()  # labs; one waits often enough for another to use its processor


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--cases", type=int, default=300, help="how many, at least")
    parser.add_argument(
        "--first",
        type=int,
        default=0,
        help="the seed of the first run; a round has %d" % len(cases.round_of(0)),
    )
    parser.add_argument(
        "--only",
        default="",
        help="only runs with a case, or a VM, that has this in its name, such as 'power failure'",
    )
    parser.add_argument("--case", type=int, help="the seed of the one run to replay alone")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="labs at a time")
    parser.add_argument("--within", type=float, help="seconds after which no run is begun any more")
    parser.add_argument(
        "--docs", action="store_true", help="write the table into docs/reliability.md"
    )
    given = parser.parse_args()
    if given.case is not None:
        return replay(given.case)
    seeds = [
        seed
        for seed in cases.seeds_for(given.cases, given.first)
        if any(given.only in str(it) for it in cases.plan(seed) + [kinds.kind_of(seed)])
    ]
    if not seeds:
        parser.error("no case has %r in its name" % given.only)
    print(
        "%d runs, seeds %d to %d, with %d cases"
        % (len(seeds), seeds[0], seeds[-1], sum(len(cases.plan(seed)) for seed in seeds))
    )
    begun, results, unbegun = time.monotonic(), [], 0
    until = given.within and begun + given.within
    with concurrent.futures.ProcessPoolExecutor(
        given.at_once, multiprocessing.get_context("spawn")
    ) as pool:
        # The second migration of a run is the next run; the last of a series has one of its own.
        submitted = [pool.submit(one_series, series, until) for series in in_order(seeds)]
        for done in concurrent.futures.as_completed(submitted):
            for result in done.result():
                if result is None:
                    unbegun += 1
                    continue
                results.append(result)
                print(report.line(result, len(results), len(seeds)), flush=True)
    table = report.table(results, time.monotonic() - begun)
    print(table)
    if unbegun:
        print(
            "*** %d of the %d runs have NOT been begun: the %d s were over. ***"
            % (unbegun, len(seeds), given.within)
        )
    if given.docs:
        report.write(table)
    return 1 if any(result["error"] for result in results) else 0


def in_order(seeds):
    """The series of runs, lists of seeds. Of the first ones their first runs come before the rest:
    a campaign of which there is time for a little only has each kind of VM."""
    series = [
        list(group) for _, group in itertools.groupby(seeds, lambda seed: seed // kinds.SERIES)
    ]
    ahead, others = series[: len(kinds.KINDS)], series[len(kinds.KINDS) :]
    return [one[:1] for one in ahead] + [one[1:] for one in ahead if one[1:]] + others


def replay(seed):
    """One run alone, in a new lab, with all that happened; then the second migration."""
    print("VM: %s" % kinds.kind_of(seed))
    for case in cases.plan(seed):
        print("case: %s" % str(case))
    worker = Worker()
    try:
        result = worker.run(seed, again=True)
    finally:
        worker.end()
    print("\n".join(result["log"]))
    print(report.line(result, 1, 1))
    return 1 if result["error"] else 0


if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    sys.exit(main())
