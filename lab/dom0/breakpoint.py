# SPDX-License-Identifier: LGPL-2.1-only
"""Stops a worker of the product at chosen writes of its journal: what a test of crashes needs, and
no timing gives.

Runs before the product on a host (lab.dom0.before) while a test asks for it. Each file of
`/etc/lab-break` is a rule: {"when": [of, field, values, wanted], "nth": n, "before": bool,
"signal": number}. `of` is "migration", "disk" (any one), "disk N" (in the order in which they are
copied, from 0), or "snapshot N" (the same of the disks of snapshots); the worker gets the signal as
soon as `field` of it is (`wanted`) or is not one of `values`, at the `nth` write of which that is
true; `before`: instead of that write, not after it. It happens once: the file is gone when it has.
"""

import contextlib
import json
import os
import signal as signals
import time

PLACE = "/etc/lab-break"
WORKER = "storage_motion.migration.worker"
ALWAYS = ("migration", "state", ("running",), True)
POLL = 0.02  # seconds


def arm(root, when=ALWAYS, nth=1, before=False, signal=9, name="one"):
    """Have the next worker on the host at `root` stopped there, by a signal's number (9: it dies,
    19: it waits). Rules of several names may stand at once."""
    from lab.dom0 import before as in_front

    os.makedirs(root + PLACE, exist_ok=True)
    with open("%s/%s.json" % (root + PLACE, name), "w") as stream:
        json.dump({"when": when, "nth": nth, "before": before, "signal": signal}, stream)
    in_front.install(root, __file__)


def armed(root):
    """The names of the rules that have not happened yet."""
    place = root + PLACE
    return (
        sorted(name[: -len(".json")] for name in os.listdir(place)) if os.path.isdir(place) else []
    )


def disarm(root):
    """Take all of it away again. The names of what had not happened."""
    from lab.dom0 import before as in_front

    in_front.remove(root, __file__)
    missed = armed(root)
    for name in missed:
        os.unlink("%s/%s.json" % (root + PLACE, name))
    return missed


@contextlib.contextmanager
def held(root, when, begin, look, bound):
    """A migration whose worker stands still at a moment: its id. Then it goes on.

    `begin()` begins it on the host at `root`, and answers its id; `look(id)`: its journal's
    content. Raises AssertionError if it ends, or `bound` seconds pass, before it stands still."""
    arm(root, when, signal=signals.SIGSTOP)
    try:
        migration = begin()
        pid, deadline = None, time.monotonic() + bound
        while armed(root) or not _stands_still(pid):
            entry = look(migration)
            pid = (entry["worker"] or {}).get("pid")
            if entry["state"] != "running" or time.monotonic() > deadline:
                raise AssertionError((entry["state"], entry["phase"], entry["error"]))
            time.sleep(POLL)
    finally:
        disarm(root)
    try:
        yield migration
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signals.SIGCONT)


def _stands_still(pid):
    try:
        with open("/proc/%s/stat" % pid) as stat:
            return stat.read().rpartition(")")[2].split()[0] == "T"
    except FileNotFoundError:
        return False


def holds(when, entry):
    """Whether the condition is true of a journal's content."""
    of, field, values, wanted = when
    record = entry if of == "migration" else _disk(entry, of)
    return (record.get(field) in values) is wanted


def _disk(entry, of):
    kind, _, number = of.partition(" ")
    planned = entry["plan"]["history" if kind == "snapshot" else "disks"]
    return (
        entry["disks"][planned[int(number)]["key"]]
        if number
        else next(iter(entry["disks"].values()))
    )


class _Rule(object):
    def __init__(self, path):
        with open(path) as stream:
            self._rule = json.load(stream)
        self._path = path
        self._seen = 0

    def look(self, entry):
        """Count a write. Whether this is the one."""
        self._seen += holds(self._rule["when"], entry)
        return self._seen == self._rule["nth"] and holds(self._rule["when"], entry)

    def happen(self, before):
        """Send the signal, if it is to come now."""
        if self._rule["before"] is not before:
            return
        try:
            os.unlink(self._path)
        except OSError:
            return  # it has happened: another thread was at it
        os.kill(os.getpid(), self._rule["signal"])


def _watch(place):
    from storage_motion.journal.journal import Journal

    rules = [_Rule(os.path.join(place, name)) for name in sorted(os.listdir(place))]
    original = Journal._put

    def put(journal, entry):
        due = [rule for rule in rules if rule.look(entry)]
        for rule in due:
            rule.happen(before=True)
        original(journal, entry)
        for rule in due:
            rule.happen(before=False)

    Journal._put = put


if __name__.startswith("lab_before."):
    from sitecustomize import runs

    _place = os.environ.get("SXM_ROOT", "") + PLACE
    if os.path.isdir(_place) and os.listdir(_place) and runs(WORKER):
        _watch(_place)
