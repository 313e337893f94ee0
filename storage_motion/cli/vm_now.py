# SPDX-License-Identifier: LGPL-2.1-only
"""Where the VM of a migration is that has failed or was cancelled, in one line, with what to do."""

from typing import Any, Dict

from storage_motion.errors import ArrivedHalted, Undecided

HALTED = "Halted"
STATES = {"Running": "runs", "Paused": "is paused", HALTED: "is halted", "Suspended": "sleeps"}
DISKS = {
    "old": "with its old disks",
    "new": "with its new disks",
    "old and new": "with some of its old disks and some new ones",
    "others": "with other disks than it had then",
}
LEFT = "something is left, see below: put that right, and do `sxm recover %s`"


def told(status: Dict[str, Any], pool: str) -> str:
    """By what the plugin's `status` answers in the pool that is called so here."""
    if (status["error"] or [""])[0] == Undecided.code:
        return "not known: start it on neither side, and do `sxm recover %s`" % status["migration"]
    gone = status["committed"] and status["kind"] == "cross-pool" and not status["copy"]
    where = _arrived(status) if gone else _here(status, pool)
    return "%s; %s" % (
        where,
        LEFT % status["migration"] if status["left"] else "nothing of the move is left",
    )


def _here(status: Dict[str, Any], pool: str) -> str:
    now = status["vm_now"]
    if not now["here"]:
        return "no more in pool %s: somebody has moved or removed it since" % pool
    state = STATES.get(now["power_state"], "is %s" % now["power_state"])
    host = " on %s" % now["host"] if now["host"] else ""
    ran = now["power_state"] == HALTED and "move" in status["phases"]
    return "%s%s, in pool %s, %s%s" % (
        state,
        host,
        pool,
        DISKS[now["disks"]],
        ", and ran before: start it" if ran else "",
    )


def _arrived(status: Dict[str, Any]) -> str:
    """Of that pool nobody is asked."""
    where = "has arrived on %s, in the pool at %s, with its new disks" % (
        status["destination_host"],
        status["destination_master"],
    )
    return where + (", halted: start it there" if status["error"][0] == ArrivedHalted.code else "")
