# SPDX-License-Identifier: LGPL-2.1-only
"""What `tap-ctl list` prints, for programs and for people."""

import sys

from . import records, reply
from .options import number


def write(layout, given):
    """Print a line for each tapdisk, and for each minor that none has."""
    rows = []
    if "p" in given:
        record = records.load(layout, number(given["p"]))
        found = [record] if record is not None and record.alive() else []
        orphans = []
    else:
        found = records.living(layout)
        taken = {record.minor for record in found}
        orphans = [minor for minor in records.minors(layout) if minor not in taken]
    for record in found:
        reply.poke(layout, record.pid)
        rows.append((record.pid, record.minor, record.state, record.args))
    rows += [(None, minor, None, None) for minor in orphans]
    row_text = _row_for_people if sys.stdout.isatty() else _row
    for row in rows:
        if _wanted(row, given):
            sys.stdout.write(row_text(*row))


def _wanted(row, given):
    _, minor, _, args = row
    kind, _, path = (args or "").partition(":")
    return (
        ("m" not in given or minor == number(given["m"]))
        and ("t" not in given or kind == given["t"])
        and ("f" not in given or path == given["f"])
    )


def _row(pid, minor, state, args):
    fields = []
    if pid is not None:
        fields.append("pid=%d" % pid)
    if minor is not None:
        fields.append("minor=%d" % minor)
    if state is not None:
        fields.append("state=" + _hex(state))
    if args is not None:
        fields.append("args=" + args)
    return " ".join(fields) + "\n"


def _row_for_people(pid, minor, state, args):
    kind, _, path = (args or "-:-").partition(":")
    return "%8s %4s %4s %10s %s\n" % (
        "-" if pid is None else pid,
        "-" if minor is None else minor,
        "-" if state is None else _hex(state),
        kind,
        path,
    )


def _hex(state):
    return "%#x" % state if state else "0"  # as printf(3) writes %#x
