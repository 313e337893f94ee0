# SPDX-License-Identifier: LGPL-2.1-only
"""A pool whose plugin takes migrations and has them end after a time of its own clock: for the
tests of `sxm evacuate`. It counts what runs at once, and refuses what the real one does."""

import XenAPI

TOO_MANY = ("SXM_REFUSED", "host a1 does not take VM", "TOO_MANY_STORAGE_MIGRATES 3", "wait")


class Dies(BaseException):
    """The machine that runs sxm has died."""


class EvacuatedPool:
    """`fates`: {VM: [one for each start, the last one for all others]}: None, or the failure,
    [code, ...], that its migration ends with. `durations`: {VM: seconds}. `at_host`: how many it
    takes at a time. `dies_at`: {which call of migrate: "before" or "after" it was begun}, at which
    whoever called dies; "refused"."""

    def __init__(self, planned, fates=None, durations=None, at_host=1000):
        self.now = 1000.0
        self.planned = {one.vm: one for one in planned}
        self.fates = fates or {}
        self.durations = durations or {}
        self.at_host = at_host
        self.migrations = []  # the newest last
        self.refused = {}  # {VM: [failures of its next starts]}
        self.dies_at = {}
        self.calls = 0
        self.most = {"all": 0}
        self.alone = ()  # VMs whose workers have died
        self.committed = ()  # VMs whose migrations are behind the point of no return, all the while
        self.left = {}  # {VM: what could not be taken away behind its migration}
        self.away = 0  # so many calls more find nobody
        self.away_with = ConnectionRefusedError(111, "Connection refused")
        self.silent = ()  # hosts whose plugins fail; a VM's migrations are on the first of its own
        self.late = None  # arguments of a call of migrate that xapi carries out just before another

    # -- the clock

    def wait(self, seconds):
        self.now += seconds

    # -- the plugin

    def plugin(self, function, **given):
        if self.away:
            self.away -= 1
            raise self.away_with
        if given.get("local"):
            answer = self._on(MASTER, function, given)
            if isinstance(answer, XenAPI.Failure):
                raise answer
            return answer
        if self.silent and function in ("list", "status"):
            raise self._fails()  # storage_motion/api/lookup.py: all hosts are asked
        return getattr(self, "_" + function)(given)

    def plugin_everywhere(self, function, **given):
        assert given["local"] == "true"
        hosts = sorted({host for one in self.planned.values() for host in one.hosts})
        return {host: self._on(host, function, given) for host in hosts}

    def _on(self, host, function, given):
        if host in self.silent:
            return self._fails()
        here = {one["migration"] for one in self.migrations if one["planned"].hosts[0] == host}
        if function == "list":
            found = self._list({})
            return {"migrations": [m for m in found["migrations"] if m["migration"] in here]}
        if given["migration"] not in here:
            return XenAPI.Failure(["SXM_NO_SUCH_MIGRATION", given["migration"]])
        return self._status(given)

    def _fails(self):
        return XenAPI.Failure(["XENAPI_PLUGIN_FAILURE", "non-zero exit", "", "No space left"])

    def _migrate(self, given):
        planned = self.planned[given["vm"]]
        self.calls += 1
        if given.get("dry-run") == "true":
            return {"plan": self._plan(planned), "room": []}
        assert given["wait"] == "false"
        if self.late:
            late, self.late = self.late, None
            self._migrate(late)
        dies = self.dies_at.get(self.calls)
        if dies == "before":
            raise Dies
        if self.refused.get(planned.vm):
            raise XenAPI.Failure(list(self.refused[planned.vm].pop(0)))
        if any(one["vm"] == planned.vm for one in self.running()):
            raise XenAPI.Failure(
                ["SXM_BAD_ARGUMENTS", "vm: VM x is being moved already by migration y; wait"]
            )
        if any(one["vm"] == planned.vm and self._state(one) == "succeeded" for one in self.all()):
            raise XenAPI.Failure(["SXM_BAD_ARGUMENTS", "vm: every disk is there already; another"])
        if len(self.running()) >= self.at_host:
            raise XenAPI.Failure(list(TOO_MANY))
        fates = self.fates.get(planned.vm, [None])
        before = sum(one["vm"] == planned.vm for one in self.migrations)
        self.migrations.append(
            {
                "migration": "m%d" % len(self.migrations),
                "vm": planned.vm,
                "begun": self.now,
                "ends": self.now + self.durations.get(planned.vm, 3.0),
                "fate": fates[min(before, len(fates) - 1)],
                "planned": planned,
            }
        )
        self._count()
        if dies == "after":
            raise Dies
        if dies == "answer lost":
            raise ConnectionResetError(104, "Connection reset by peer")
        return {"migration": self.migrations[-1]["migration"], "task": "OpaqueRef:t"}

    def _list(self, _):
        return {
            "migrations": [
                {
                    "migration": one["migration"],
                    "vm": one["vm"],
                    "vm_name": one["planned"].name,
                    "state": self._state(one),
                    "started": one["begun"],
                }
                for one in reversed(self.migrations)
            ],
            "unreadable": [],
        }

    def _status(self, given):
        for one in self.migrations:
            if one["migration"] == given["migration"]:
                break
        else:
            raise XenAPI.Failure(["SXM_NO_SUCH_MIGRATION", given["migration"]])
        state, whole = self._state(one), one["planned"].data
        ended = state != "running"
        return {
            "migration": one["migration"],
            "vm": one["vm"],
            "vm_name": one["planned"].name,
            "state": state,
            "doing": "Copying",
            "alive": not ended and one["vm"] not in self.alone,
            "error": list(one["fate"]) if ended and one["fate"] else None,
            "committed": state == "succeeded"
            or one["vm"] in self.committed
            or bool(one["fate"] and one["fate"][0] in ARRIVED),
            "left": list(self.left.get(one["vm"], ())) if ended else [],
            "bytes_moved": whole if state == "succeeded" else whole // 2,
            "bytes_to_move": whole,
            "started": one["begun"],
            "updated": min(self.now, one["ends"]),
            "disks": [
                {"vdi": disk.vdi, "destination_sr": disk.destination_sr}
                for disk in one["planned"].disks
            ],
        }

    def _state(self, one):
        if self.now < one["ends"]:
            return "running"
        return "failed" if one["fate"] else "succeeded"

    def _plan(self, planned):
        return {
            "source_host": "h1",
            "destination_host": "h1",
            "warnings": [],
            "history": [],
            "disks": [{"key": disk.vdi, "data": disk.data} for disk in planned.disks],
        }

    # -- what was seen

    def all(self):
        return list(self.migrations)

    def running(self):
        return [one for one in self.migrations if self._state(one) == "running"]

    def starts(self, vm):
        """How often a migration of it was begun."""
        return sum(one["vm"] == vm for one in self.migrations)

    def _count(self):
        running = self.running()
        seen = {"all": len(running)}
        for one in running:
            for place in one["planned"].hosts + one["planned"].srs:
                seen[place] = seen.get(place, 0) + 1
        for place, number in seen.items():
            self.most[place] = max(number, self.most.get(place, 0))


MASTER = "h0"
ARRIVED = ("SXM_ARRIVED_HALTED", "SXM_NOT_CLEANED_UP")
