# SPDX-License-Identifier: LGPL-2.1-only
"""What it came to, in figures that add up: all disks that were asked for are moved, failed,
skipped, or, where it was broken off, not done yet."""

from typing import Any, Callable, Dict, Iterable, List

from storage_motion.cli.evacuation import account as accounts, codes
from storage_motion.cli.evacuation.account import FAILED, MOVED, SKIPPED, Account, Course
from storage_motion.cli.evacuation.parts import VM, count, described
from storage_motion.cli.output import duration, size

PARTS = ("moved", "failed", "skipped", "not_done")
LOOK = "at the source, but not all could be taken back: see what is left"
SIDES = ("vms", "disks", "bytes")


def of(account: Account) -> Dict[str, Any]:
    """As JSON values. `bytes` are the disks' sizes, `bytes_sent` what their migrations moved,
    `seconds` the time from the first event to the last. Raises AssertionError if it does not add
    up, which would be a fault of ours."""
    parts: Dict[str, Callable[[Course], bool]] = {
        "moved": lambda course: course.state == MOVED,
        "failed": lambda course: course.state == FAILED,
        "skipped": lambda course: course.state == SKIPPED,
        "not_done": lambda course: course.state not in accounts.OVER,
    }
    figures = {
        part: _figures(course for course in account.courses.values() if belongs(course))
        for part, belongs in parts.items()
    }
    skipped = figures["skipped"]
    skipped["vms"] += sum(left.kind == VM for left in account.left)
    skipped["disks"] += sum(left.disks for left in account.left)
    skipped["bytes"] += sum(left.size for left in account.left)
    asked = _figures(account.courses.values())
    asked["vms"] += sum(left.kind == VM for left in account.left)
    asked["disks"] += sum(left.disks for left in account.left)
    asked["bytes"] += sum(left.size for left in account.left)
    for side in SIDES:
        assert asked[side] == sum(figures[part][side] for part in PARTS), (asked, figures)
    return {
        "asked": asked,
        **figures,
        "bytes_sent": sum(course.moved for course in account.courses.values()),
        "seconds": round(account.latest - account.began, 1),
        "vms": [_vm(course) for course in account.courses.values()],
        "left": [left._asdict() for left in account.left],
        "finished": account.finished,
    }


def _figures(courses: Iterable[Course]) -> Dict[str, int]:
    found = list(courses)
    return {
        "vms": len(found),
        "disks": sum(len(course.planned.disks) for course in found),
        "bytes": sum(course.planned.size for course in found),
    }


def _vm(course: Course) -> Dict[str, Any]:
    answer: Dict[str, Any] = {
        "vm": course.planned.vm,
        "name": course.planned.name,
        "state": course.state,
        "migration": course.migration,
        "disks": len(course.planned.disks),
        "bytes": course.planned.size,
        "bytes_sent": course.moved,
        "seconds": round(course.seconds, 1),
        "tries": course.tries + bool(course.migration),
    }
    if course.error:
        answer.update(code=course.error[0], error=course.error)
    if wanting(course):
        code = codes.of_moved(course.error)
        answer.update(do=code.do, data=code.where)
    elif course.unknown:
        answer.update(do=codes.RECOVER, data=codes.UNKNOWN)
    elif course.error:
        code = codes.of(course.error)
        answer.update(do=code.do, data=code.where)
        if course.left and code.where == codes.UNTOUCHED:
            answer["data"] = LOOK
    if course.left:
        answer["left"] = course.left
    return answer


def wanting(course: Course) -> bool:
    """Whether one has moved, and somebody has to do something about it."""
    return course.state == MOVED and bool(course.error or course.left)


def complete(account: Account) -> bool:
    """Whether all that was to be moved has moved, and nobody has to do anything more about it."""
    return not (
        account.of(FAILED)
        or any(left.refused for left in account.left)
        or any(wanting(course) for course in account.of(MOVED))
    )


def lines(account: Account) -> List[str]:
    """The same for a person, as lines."""
    found = of(account)
    shown = ["asked for: %s" % _in_words(found["asked"])]
    words = {"moved": "moved", "failed": "failed", "skipped": "not moved", "not_done": "not done"}
    for part in PARTS:
        if found[part]["disks"] or found[part]["vms"] or part == "moved":
            shown.append("  %-9s  %s" % (words[part], _in_words(found[part])))
    shown.append("%s were sent in %s" % (size(found["bytes_sent"]), duration(found["seconds"])))
    for vm in found["vms"]:
        if vm["state"] == FAILED:
            shown += [
                "failed: VM %s (%s): %s"
                % (vm["name"], count(vm["disks"], "disk"), described(vm["error"])),
                "    its data: %s" % vm["data"],
                "    do: %s" % vm["do"],
            ]
        elif vm["state"] == SKIPPED:
            shown.append("not moved: VM %s: %s" % (vm["name"], described(vm["error"])))
        elif vm["state"] == MOVED and "do" in vm:
            shown += [
                "moved, with a warning: VM %s: %s"
                % (vm["name"], described(vm.get("error", [])) or "something is left behind it"),
                "    its data: %s" % vm["data"],
                "    do: %s" % vm["do"],
            ]
        shown += ["    left: %s" % one for one in vm.get("left", ())]
    for left in account.left:
        shown += [
            "not moved: %s %s (%s): %s" % (left.kind, left.name or "-", left.uuid, left.reason),
            "    do: %s" % left.todo,
        ]
    return shown


def _in_words(figures: Dict[str, int]) -> str:
    """Disks that no VM has, and of which nothing moves, are of none."""
    disks = count(figures["disks"], "disk")
    of_vms = " of %s" % count(figures["vms"], "VM") if figures["vms"] else ""
    return "%s%s, %s" % (disks, of_vms, size(figures["bytes"]))
