# SPDX-License-Identifier: LGPL-2.1-only
"""What a check has found, and how a person is shown it."""

from typing import Any, Dict, Iterable, List, NamedTuple

from storage_motion.cli import exit_codes
from storage_motion.cli.output import Output

OK, WARNING, PROBLEM = "ok", "warning", "problem"
LEVELS = (OK, WARNING, PROBLEM)  # from the best
STATUSES = {OK: exit_codes.DONE, WARNING: exit_codes.SOME_FAILED, PROBLEM: exit_codes.FAILED}


class Finding(NamedTuple):
    """`where`: the pool, host, SR, VDI or VM; `remedy`: what to do, "" for what is well."""

    level: str
    what: str
    where: str
    remedy: str = ""
    check: str = ""


def worst(found: Iterable[Finding]) -> str:
    """The level of the worst of them."""
    return max([OK] + [one.level for one in found], key=LEVELS.index)


def document(found: List[Finding]) -> Dict[str, Any]:
    """As --json has them."""
    return {"worst": worst(found), "findings": [dict(one._asdict()) for one in found]}


def show(out: Output, found: List[Finding]) -> None:
    """For a person: each with its remedy below it, what is worst at the end, where it is seen."""
    rows = []
    for one in sorted(found, key=lambda one: LEVELS.index(one.level)):
        rows.append((one.level, one.check, "%s: %s" % (one.where, one.what)))
        if one.remedy:
            rows.append(("", "", "What to do: %s" % one.remedy))
    out.table(("", "Check", "Found"), rows)
    counts = [(level, len([one for one in found if one.level == level])) for level in LEVELS]
    out.line(
        ", ".join(
            "%d %s%s" % (count, level, "" if level == OK or count == 1 else "s")
            for level, count in counts
        ),
        "bold",
    )
