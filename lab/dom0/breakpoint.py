"""Stops a worker of the product at a chosen write of its journal: what a test of crashes needs, and no timing gives.

Installed as `sitecustomize` of a host's Python while a test asks for it, so that the product itself knows nothing of it.
`/etc/lab-break.json` says where: {"when": [of, field, values, wanted], "nth": n, "before": bool, "signal": number}. `of` is
"migration" or "disk" (the first one); the worker gets the signal as soon as `field` of it is (`wanted`) or is not one of
`values`, at the `nth` write of which that is true; `before`: instead of that write, not after it. It happens once.
"""
import json
import os
import shutil

PLACE = "/etc/lab-break.json"
INSTALLED = "/usr/lib/python3/site-packages/sitecustomize.py"
WORKER = "storage_motion.control.worker"
ALWAYS = ("migration", "state", ("running",), True)


def arm(root, when=ALWAYS, nth=1, before=False, signal=9):
    """Have the next worker on the host at `root` stopped there, by a signal's number (9: it dies, 19: it waits)."""
    rule = {"when": when, "nth": nth, "before": before, "signal": signal}
    shutil.copyfile(os.path.abspath(__file__), root + INSTALLED)
    with open(root + PLACE, "w") as stream:
        json.dump(rule, stream)


def disarm(root):
    """Take it away again. Whether it had not happened."""
    if os.path.exists(root + INSTALLED):
        os.unlink(root + INSTALLED)
    if os.path.exists(root + PLACE):
        os.unlink(root + PLACE)
        return True
    return False


def holds(when, entry):
    """Whether the condition is true of a journal's content."""
    of, field, values, wanted = when
    record = entry if of == "migration" else next(iter(entry["disks"].values()))
    return (record.get(field) in values) is wanted


def _break(path, rule):
    try:
        os.unlink(path)
    except OSError:
        return  # another thread of this worker is at it
    os.kill(os.getpid(), rule["signal"])


def _watch(path):
    from storage_motion.control.journal import Journal
    with open(path) as stream:
        rule = json.load(stream)
    seen = []
    original = Journal.write

    def write(journal, **fields):
        journal.entry.update(fields)
        if holds(rule["when"], journal.entry):
            seen.append(True)
        due = seen and len(seen) == rule["nth"]
        if due and rule["before"]:
            _break(path, rule)
        original(journal)
        if due and not rule["before"]:
            _break(path, rule)

    Journal.write = write


def _is_worker():
    with open("/proc/self/cmdline", "rb") as cmdline:
        return WORKER in cmdline.read().decode("utf-8", "replace").split("\0")


if __name__ == "sitecustomize":
    _path = os.environ.get("SXM_ROOT", "") + PLACE
    if os.path.exists(_path) and _is_worker():
        _watch(_path)
