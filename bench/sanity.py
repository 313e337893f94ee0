# SPDX-License-Identifier: LGPL-2.1-only
"""Whether a run can be believed: all ran, and copied right, and the figures are figures. Not what
they are."""

import math

from bench import mirroring, peers
from bench.rounds import names, of, ratios

MAY_TAKE_TOO_LONG = "over "  # a disk of 2 TiB by a million questions: no fault of the bench


def faults(result):
    """What is wrong with a result: [text]."""
    wrong = []
    for part in ("copy", "mirror", "downtime", "switch", "shares", "extents"):
        for sample in result.get(part, ()):
            error = sample.get("error", "")
            if error and not _is_late(sample):
                beside = " beside a copy" if sample.get("beside") else ""
                where = sample["scenario"] + beside, sample["contestant"], error
                wrong.append("%s, %s, %s: %s" % (part, *where))
    wrong += _ratios(result.get("copy", ()), peers.BASE, "seconds")
    alone = of(result.get("mirror", ()), beside=False)
    wrong += _ratios(alone, mirroring.BASE, "p50") + _ratios(alone, mirroring.BASE, "iops")
    return wrong


def _is_late(sample):
    return sample.get("error", "").startswith(MAY_TAKE_TOO_LONG)


def _ratios(samples, base, key):
    """Ratios that are no numbers above zero, and scenarios that have none."""
    wrong = []
    for scenario in names(samples, "scenario"):
        found = ratios(of(samples, scenario=scenario), base, lambda sample: sample.get(key))
        late = [one for one in of(samples, scenario=scenario, contestant=base) if _is_late(one)]
        if base not in found and not late:
            wrong.append("%s: %s has no %s" % (scenario, base, key))
        for name, spread in found.items():
            if not all(math.isfinite(value) and value > 0 for value in spread):
                wrong.append("%s, %s: a ratio of %s" % (scenario, name, spread))
    return wrong
