# SPDX-License-Identifier: LGPL-2.1-only
"""What a campaign showed: a line a run, and the table of docs/reliability.md."""

import collections
import os

from tests.faults import cases, kinds

PAGE = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
    "docs",
    "reliability.md",
)
BEGIN, END = (
    "<!-- made by make test-faults DOCS=1 -->\n",
    "<!-- end of what make test-faults made -->\n",
)


def line(result, number, of):
    """One run, for the terminal."""
    said = "*** FAILED" if result["error"] else "ok"
    text = "%4d/%d  seed %-5d %5.1f s  %-10s %s: %s: %s" % (
        number,
        of,
        result["seed"],
        result["seconds"],
        result["outcome"] or "-",
        said,
        result["kind"],
        "; ".join(result["cases"]),
    )
    if result.get("missed"):
        text += "   [did not come to: %s]" % "; ".join(map(str, result["missed"]))
    if result["error"]:
        text += (
            "\n           %s\n           %sreplay alone: make test-faults CASE=%d; logs in "
            "build/faults/%d"
            % (
                result["error"],
                "it began as the second migration after seed %s; " % result["former"]
                if result["former"] is not None
                else "",
                result["seed"],
                result["seed"],
            )
        )
    return text


def table(results, seconds):
    """The table, in Markdown."""
    done, failed = collections.Counter(), collections.Counter()
    faults, phases = [], set()
    for result in results:
        for case in result.get("done", []):
            done[case.process, case.fault] += 1
            failed[case.process, case.fault] += bool(result["error"])
            phases.add(case.phase)
            if case.fault not in faults:
                faults.append(case.fault)
    injected, missed = sum(done.values()), sum(len(result.get("missed", [])) for result in results)
    rows = ["| process | %s |" % " | ".join(sorted(faults)), "|---|%s" % ("---|" * len(faults))]
    for process in cases.KINDS:
        cells = [
            "%d" % done[process, fault]
            + (
                " (%d in runs that failed)" % failed[process, fault]
                if failed[process, fault]
                else ""
            )
            if done[process, fault]
            else ""
            for fault in sorted(faults)
        ]
        rows.append("| %s | %s |" % (process, " | ".join(cells)))
    head = [
        "Cases injected: %d, in %d phases, in %d migrations (seeds %d to %d); their moment did not "
        "come: %d."
        % (
            injected,
            len(phases),
            len(results),
            min(result["seed"] for result in results),
            max(result["seed"] for result in results),
            missed,
        ),
        "Ends: %s. Failed: %d. %.0f min on %d processors."
        % (
            _ends([result for result in results if not result["error"]]),
            sum(bool(result["error"]) for result in results),
            seconds / 60,
            os.cpu_count(),
        ),
    ]
    rows += ["", "| VM | runs | ends |", "|---|---|---|"]
    for kind in kinds.KINDS:
        of_it = [result for result in results if result["kind"] == kind]
        rows.append("| %s | %d | %s |" % (kind, len(of_it), _ends(of_it)))
    return "\n".join(head + [""] + rows) + "\n"


def _ends(results):
    """How the runs have ended."""
    outcomes = collections.Counter(
        "*failed its checks*" if result["error"] else result["outcome"] for result in results
    )
    return ", ".join("%s %d" % (name, count) for name, count in sorted(outcomes.items(), key=str))


def write(text):
    """Put the table where docs/reliability.md has the one of before."""
    with open(PAGE) as stream:
        page = stream.read()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    with open(PAGE, "w") as stream:
        stream.write(before + BEGIN + text + END + after)
