# SPDX-License-Identifier: LGPL-2.1-only
"""A migration that has ended, as its journal and its course tell it, for the tests of reports."""

import json
import math
import types

from fake_migration import ID, make_plan
from storage_motion.api import report
from storage_motion.journal import course, journal
from storage_motion.journal.journal import Journal
from storage_motion.migration import migration

MIB, GIB = 1 << 20, 1 << 30
BEGUN = 1795900000.0
PHASES = ("claim", "eject", "receive", "sync", "remap", "move", "complete", "clean-up", "end")
AT = (0.2, 1.0, 1.1, 3.4, 58.0, 60.5, 71.0, 72.5, 74.0)
SOFTWARE = {"product_brand": "XCP-ng", "product_version": "8.3.0", "hostname": "h"}
KEYS = ("root-disk", "data-disk")


def plan(**changes):
    """A plan of two disks."""
    made = make_plan()
    (disk,) = made.disks
    root, data = (
        disk._replace(
            key=key,
            device=device,
            name_label=name,
            size=size * GIB,
            data=size * GIB * 2 // 5,
            source_sr_name="old array",
            destination_sr_name="new array",
        )
        for key, device, name, size in zip(KEYS, ("xvda", "xvdb"), ("root", "data"), (8, 20))
    )
    fields = {
        "disks": [root, data],
        "source_host_name": "a1",
        "destination_host_name": "b1",
        "warnings": ("HA of the other pool is off",),
    }
    return made._replace(**dict(fields, **changes))


def begin(changed_plan=None, state=journal.SUCCEEDED, **fields):
    """The journal, and the course beside it, below $SXM_ROOT. `fields` are put into the journal."""
    chosen = changed_plan or plan()
    entry = Journal.create(ID, **migration.initial(chosen))
    for index, disk in enumerate(chosen.sent):
        entry.entry["disks"][disk.key].update(
            state="moved" if state == journal.SUCCEEDED else "copying",
            index=index,
            gate="open" if state == journal.SUCCEEDED else "attached",
            mirror=True,
            to_copy=disk.data,
            copied=disk.data - 100 * MIB,
            sent=disk.data - 300 * MIB,
            verified=disk.data - 100 * MIB,
            zeros=200 * MIB,
            skipped=100 * MIB,
            mirrored_bytes=(206, 148)[index % 2] * MIB,
            mirrored_writes=(52800, 38000)[index % 2],
        )
    known = dict(phase="end", downtime=0.412, state=state, warnings=["messages were not brought"])
    entry.write(**dict(known, **fields))
    entry.entry.update(started=BEGUN, updated=BEGUN + 75.5)
    journal.replace(entry.path, json.dumps(entry.entry))
    with open(course.path(ID), "w") as out:
        out.write("\n".join(json.dumps(line) for line in lines(chosen)) + "\n")
    return Journal.load(ID)


def lines(chosen):
    """The lines of the course."""
    found = [["phase", BEGUN + at, None, name] for at, name in zip(AT, PHASES)]
    spans = {0: (4.0, 22.0), 1: (22.5, 57.0)}
    for index, disk in enumerate(chosen.sent[:2]):
        first, last = spans[index]
        found += [
            ["state", BEGUN + first, index, "mirroring"],
            ["state", BEGUN + first + 1.2, index, "copying"],
            ["state", BEGUN + last, index, "in-sync"],
        ]
        found += [
            ["gate", BEGUN + 70.2 + index * 0.05 + step * 0.08, index, name]
            for step, name in enumerate(("detached", "locking", "locked", "opening", "open"))
        ]
        found.append(["state", BEGUN + 71.1, index, "moved"])
        whole, writes, waited, at = disk.data - 300 * MIB, 0.0, 0.0, first
        while at < 70:
            share = min(1.0, max(0.0, (at - first - 1.2) / (last - first - 1.2)))
            bump = 1 + 0.1 * math.sin(at)
            writes += 400 * bump
            waited += 400 * bump * (0.0007 + 0.0006 * (share < 1))
            longest = 0.004 * bump + (0.09 if int(at) % 17 == 0 else 0)
            found.append(
                ["sample", BEGUN + at, index, int(whole * share), writes * 4096, writes, waited]
                + [longest]
            )
            at += 0.5
    return found


class Host:
    """xapi's, of which only the version is asked."""

    def get_by_uuid(self, uuid):
        return "ref " + uuid

    def get_software_version(self, ref):
        return SOFTWARE


def session():
    """One whose hosts tell their versions."""
    return types.SimpleNamespace(xenapi=types.SimpleNamespace(host=Host()))


def answer(changed_plan=None, **fields):
    """What `fn=report` answers of it."""
    entry = begin(changed_plan, **fields)
    return dict(json.loads(json.dumps(report.of(entry.entry, session()))), version="9.9")


def of_first_version(answer):
    """What a plugin of before would have answered of the same migration."""
    old = json.loads(json.dumps(answer))
    old["report"] = 1
    for counted in old["disks"] + old["snapshots"] + [old["bytes"]]:
        del counted["sent"], counted["zeros"]
    del old["timeline"]["limits"], old["plan"]["notes"]
    old["sample_fields"] = ["verified" if one == "sent" else one for one in old["sample_fields"]]
    return old
