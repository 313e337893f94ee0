# SPDX-License-Identifier: LGPL-2.1-only
"""The plot of a run of bench/downtime.py, by matplotlib.

python -m bench.plot RESULT.json PLOT.svg
"""

import json
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "bench"  # the same file of the same figures

from matplotlib import pyplot  # noqa: E402

from bench import downtime  # noqa: E402
from bench.rounds import names, of, spread  # noqa: E402

STYLES = {downtime.OURS: ("tab:blue", "o"), downtime.DIRTY: ("tab:red", "s")}
LINES = ("-", "--")
PANELS = (  # title, unit, what of a sample, whether the axis is logarithmic
    ("Guest stopped", "s", lambda one: one.get("pause"), True),
    ("Whole move", "s", lambda one: one.get("seconds"), False),
    (
        "Guest writes meanwhile",
        "% of what it wants",
        lambda one: one["asked"] and one.get("written") and 100 * one["written"] / one["asked"],
        False,
    ),
)


def draw(samples, path):
    """Draw the panels side by side into the file `path`."""
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(13, 4.2))
    for axis, (title, unit, value, logarithmic) in zip(axes, PANELS):
        for line, where in zip(LINES, names(samples, "scenario")):
            for name, (colour, mark) in STYLES.items():
                mine = of(samples, scenario=where, contestant=name)
                points = [
                    (100 * rate, spread(value(one) or None for one in of(mine, rate=rate)))
                    for rate in names(mine, "rate")
                ]
                points = [(rate, found) for rate, found in points if found]
                axis.errorbar(
                    [rate for rate, _ in points],
                    [found.median for _, found in points],
                    yerr=[
                        [found.median - found.least for _, found in points],
                        [found.greatest - found.median for _, found in points],
                    ],
                    color=colour,
                    marker=mark,
                    linestyle=line,
                    capsize=2,
                    label="%s; guest writes to %s" % (name, where),
                )
        axis.set_title(title)
        axis.set_ylabel(unit)
        axis.set_xlabel("guest's rate of writes, % of the link")
        axis.axvline(100, color="gray", linewidth=0.8, linestyle=":")
        if logarithmic:
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncol=2)
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    with open(sys.argv[1]) as source:
        draw(json.load(source)["downtime"], sys.argv[2])
