# SPDX-License-Identifier: LGPL-2.1-only
"""Whether a run can be believed: all ran, and copied right, and the figures are figures. Not what
they are."""

import math

from bench import downtime, mirroring, peers
from bench.rounds import names, of, ratios

# copy-dirty has no end where the guest writes faster; a whole VHD of 2 TiB is asked for in pieces
MAY_TAKE_TOO_LONG = "over "


def faults(result):
    """What is wrong with a result: [text]."""
    wrong = []
    for part in ("copy", "mirror", "downtime"):
        for sample in result.get(part, ()):
            error = sample.get("error", "")
            if error and not error.startswith(MAY_TAKE_TOO_LONG):
                where = sample["scenario"], sample["contestant"], error
                wrong.append("%s, %s, %s: %s" % (part, *where))
    wrong += _ratios(result.get("copy", ()), peers.BASE, "seconds")
    alone = of(result.get("mirror", ()), beside=False)
    wrong += _ratios(alone, mirroring.BASE, "p50") + _ratios(alone, mirroring.BASE, "iops")
    for sample in of(result.get("downtime", ()), contestant=downtime.OURS):
        if sample.get("stopped") != "in time":
            wrong.append("downtime at %g: not ended by itself" % sample["rate"])
    return wrong


def _ratios(samples, base, key):
    """Ratios that are no numbers above zero, and scenarios that have none."""
    wrong = []
    for scenario in names(samples, "scenario"):
        found = ratios(of(samples, scenario=scenario), base, lambda sample: sample.get(key))
        if base not in found:
            wrong.append("%s: %s has no %s" % (scenario, base, key))
        for name, spread in found.items():
            if not all(math.isfinite(value) and value > 0 for value in spread):
                wrong.append("%s, %s: a ratio of %s" % (scenario, name, spread))
    return wrong
