# SPDX-License-Identifier: LGPL-2.1-only
"""A migration as its phases see it: what is planned, what is known, and how to get at both pools.
run.py takes it through them."""

import contextlib
import logging
import os
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Sequence

import XenAPI

from storage_motion.errors import STOPPING, Cancelled, MotionError
from storage_motion.journal import closing, course, journal, secret_files
from storage_motion.journal.journal import Journal
from storage_motion.migration import mover_handle, progress, resume
from storage_motion.migration.progress import Progress
from storage_motion.plan.checks import CLAIM
from storage_motion.xapi import outage, repeated
from storage_motion.xapi.records import Records
from storage_motion.xapi.session import NOT_XAPI, at_once, reason
from storage_motion.xapi.tasks import ProgressTask, Shown

if TYPE_CHECKING:
    from storage_motion.plan.plan import Disk, Plan

CANCEL = "cancel"  # a file in /run/sxm/<id>/: somebody asks for a cancel
KEEP_ALIVE = 60.0  # seconds between two signs of life to the destination's xapi
MOVE = "move"  # the phase (phases/table.py) in which the guest is suspended
# What the Task is called. Of the tasks of other clients XenCenter shows those alone that are called
# like an operation of xapi's, these as "Migrating VM 'web'" and "Copying VM 'web'" (xenadmin,
# MeddlingAction.cs). Nothing looks it up by that: CLAIM is in its other_config.
LABEL = "VM.migrate_send"
COPY_LABEL = "VM.clone"

log = logging.getLogger("sxm")


def initial(plan: "Plan", retry_limit: int = resume.LIMIT, bandwidth: int = 0) -> Dict[str, Any]:
    """The fields of a new journal of a migration with this plan, which may be taken up
    `retry_limit` times, and use `bandwidth` bytes per second (0: as much as goes)."""
    disks = {
        disk.key: {"state": "waiting", "index": index}
        for index, disk in enumerate(plan.disks + plan.history)
    }
    return {
        "plan": plan.to_json(),
        "disks": disks,
        "phase": None,
        "begun": [],
        "error": None,
        "left": [],
        "worker": None,
        "task": None,
        "committed": False,
        "downtime": None,
        "retry_limit": retry_limit,
        "bandwidth": bandwidth,
        "tries": 0,
        "broken": None,
    }


def ask_to_cancel(migration: str) -> None:
    """Leave word for the worker."""
    journal.replace(os.path.join(journal.run_directory(migration), CANCEL), "", sync=False)


def task_of(
    source: "XenAPI.Session",
    entry: Dict[str, Any],
    plan: "Plan",
    by: str = "",
    ref: Optional[str] = None,
) -> ProgressTask:
    """The Task that shows a migration (its journal's content) in the source pool, noted nowhere
    yet. `by`: who drives it, to be read behind its description, if that is not its first worker;
    `ref`: it is there already."""
    vm = Records(source).ref("VM", plan.vm) or ""
    text = "Storage XenMotion, copy of %s to %s" if plan.copy else "Storage XenMotion of %s to %s"
    description = text % (plan.vm_name, plan.destination_host_name) + (by and ", " + by)
    label = COPY_LABEL if plan.copy else LABEL
    shown = Shown(label, description, vm, {CLAIM: entry["migration"]})
    return ProgressTask(source, shown, ref)


class Migration:
    """One migration, as the phases see it: what is planned, what is known, and how to get at both
    pools."""

    def __init__(
        self,
        entry_journal: Journal,
        plan: "Plan",
        source: "XenAPI.Session",
        destination: "XenAPI.Session",
        task: ProgressTask,
        hidden: Sequence[str] = (),
        lost: bool = False,
    ) -> None:
        """`source`, `destination`: sessions of the two pools (the same one within a pool);
        `hidden`: secrets, which no error may show; `lost`: the destination will never come back,
        and `destination` is a lost.LostPool."""
        self.journal = entry_journal
        self.plan = plan
        self.source = source
        self.destination = destination
        self.task = task
        task.noted = lambda uuid: self.note(task=uuid)
        self.lost = lost
        self.id: str = entry_journal.entry["migration"]
        # what host.migrate_receive answered: in memory only, since there is a session in it
        self.receiving_host: Optional[Dict[str, Any]] = None
        self.outage_there = outage.Outage("the destination host")
        self.stopped_by: Optional[Exception] = None  # for which what was begun is taken back
        self._hidden = hidden
        self._cancel = os.path.join(journal.run_directory(self.id), CANCEL)
        self._alive = time.monotonic()
        self._noting = threading.RLock()  # disks may be seen to in threads of their own
        disks = entry_journal.entry["disks"]
        self._course = course.Course(self.id, len(disks))
        if self.entry.get("bandwidth"):
            self._course.note("bandwidth", self.entry["bandwidth"])
        self.progress = Progress(self.id, task, plan, disks, self._course)
        progress.forget_stopped(self.id)  # somebody is at it again

    # What the phases ask for.

    @property
    def entry(self) -> Dict[str, Any]:
        """The journal's content."""
        return self.journal.entry

    def disk(self, key: str) -> Dict[str, Any]:
        """The journal's entry of a disk."""
        found: Dict[str, Any] = self.entry["disks"][key]
        return found

    def note(self, key: Optional[str] = None, **fields: Any) -> None:
        """Write fields of a disk's entry (or, without `key`, of the migration) to the journal.
        Raises JournalNotWritten: then nothing is noted, and what was to follow must not be done."""
        with self._noting:
            if key is None:
                self.journal.write(**fields)
            else:
                self.journal.write_disks({key: fields})
            self._note_course(key, fields)
        if key is None and ("phase" in fields or "state" in fields):
            self._course.hold(False)
        if key is None and "phase" in fields or "state" in fields:
            self._course.flush()
        if key is None and fields.get("phase") == MOVE:
            self._course.hold(True)

    def warn(self, text: str, **fields: Any) -> None:
        """Tell the user of what does not make the migration fail (a sentence): in the log, and once
        among the warnings of its status. `fields` are noted with it, as `note` does."""
        log.warning("%s: %s", self.id, text)
        with self._noting:
            told: List[str] = self.entry.get("warnings", [])
            if text not in told:
                fields["warnings"] = told + [text]
            self.note(**fields)

    def note_steps(self, steps: Dict[str, str]) -> None:
        """Note how far several disks are in the switch, by their keys, at once. As `note`."""
        with self._noting:
            self.journal.write_disks({key: {"gate": step} for key, step in steps.items()})
            for key, step in steps.items():
                self._note_course(key, {"gate": step})

    def _note_course(self, key: Optional[str], fields: Dict[str, Any]) -> None:
        index = None if key is None else self.disk(key).get("index")
        for kind in course.KINDS:
            if kind in fields:
                self._course.note(kind, fields[kind], index)

    def mover(self, key: str) -> mover_handle.MoverHandle:
        """The mover of a disk."""
        entry = self.disk(key)
        return mover_handle.MoverHandle(self.id, key, entry["index"], entry.get("given_up", 0))

    def source_vdi(self, disk: "Disk") -> str:
        """The ref of a disk's VDI at the source."""
        vdi: str = self.source.xenapi.VDI.get_by_uuid(disk.key)
        return vdi

    def destination_vdi(self, disk: "Disk") -> str:
        """The ref of a disk's VDI at the destination."""
        vdi: str = self.destination.xenapi.VDI.get_by_uuid(self.disk(disk.key)["destination_vdi"])
        return vdi

    def host(self) -> str:
        """The ref of the destination host."""
        host: str = self.destination.xenapi.host.get_by_uuid(self.plan.destination_host)
        return host

    def vm(self) -> str:
        """The ref of the VM in the source pool."""
        vm: str = self.source.xenapi.VM.get_by_uuid(self.plan.vm)
        return vm

    def plugin(self, function: str, **arguments: str) -> str:
        """Call our plugin at the destination host. Where its xapi, as a member's, is being
        restarted, it is waited for, if the call may be repeated, as a session waits for its own.
        Raises XenAPI.Failure."""
        tries = 0
        while True:
            try:
                answer: str = self.destination.xenapi.host.call_plugin(
                    self.host(), "sxm.py", function, dict(arguments, migration=self.id)
                )
            except XenAPI.Failure as failure:
                if not repeated.is_away(failure) or function not in outage.REPEATABLE_OF_OURS:
                    raise
                self.outage_there.begins(failure.details[0])
                if not self.outage_there.wait(tries):
                    raise
                tries += 1
            else:
                self.outage_there.ends()
                return answer

    def cancel_asked(self) -> bool:
        """Whether somebody asks for a cancel."""
        return os.path.exists(self._cancel)

    def guest_closes(self) -> Optional[str]:
        """Why the guest is about to close its disks by itself, as a hook has told
        (journal/closing.py); None if it is not."""
        return closing.noted(self.id)

    def closed(self) -> None:
        """The guest has closed them: what was told has been seen to."""
        closing.forget(self.id)

    def pulse(self, cancellable: bool = True) -> None:
        """To be called in every wait: reports, keeps the other pool's session alive, raises
        Cancelled when that is asked for."""
        if not self.cancel_asked() and self.task.cancel_asked():
            ask_to_cancel(self.id)  # xapi may be restarted, and forget it
        if cancellable and self.cancel_asked():
            raise Cancelled(self.id)
        self.progress.report()
        if self.plan.cross_pool and time.monotonic() - self._alive > KEEP_ALIVE:
            self._alive = time.monotonic()
            try:
                at_once(self.destination).xenapi.pool.get_all()
            except (XenAPI.Failure, OSError) + NOT_XAPI as error:
                # It may be restarting, which the session tells. The data go on without it; whoever
                # needs it will wait.
                log.debug(
                    "%s: no sign of life to the destination's xapi: %s", self.id, reason(error)
                )

    @contextlib.contextmanager
    def tolerated(self, what: str) -> Iterator[None]:
        """For one of several things to undo: an error is told and kept as something that is left;
        the others follow.

        Undecided passes, and so does a journal that cannot be written: nothing further may be
        undone."""
        try:
            yield
        except STOPPING:
            raise
        except Exception as error:
            log.error(
                "%s: %s failed\n%s", self.id, what, self.without_secrets(traceback.format_exc())
            )
            with self._noting:
                self.note(
                    left=self.entry["left"] + ["%s: %s" % (what, " ".join(self.describe(error)))]
                )

    @property
    def why_stopped(self) -> Optional[str]:
        """Why what was begun is taken back, as the log of the destination is to have it; None while
        it is not."""
        if isinstance(self.stopped_by, Cancelled):
            return "the migration is cancelled"
        return ": ".join(self.describe(self.stopped_by)) if self.stopped_by else None

    def describe(self, error: Exception) -> List[str]:
        """What the status and the log say of an error: [code, detail, ...], without secrets."""
        return [self.without_secrets(text) for text in failure_of(error)]

    def without_secrets(self, text: str) -> str:
        """A text for the log, the journal or a task, with `***` in place of each secret."""
        return secret_files.scrub(text, self._hidden)


def failure_of(error: Exception) -> List[str]:
    """The error description of any exception: [code, detail, ...]."""
    if isinstance(error, MotionError):
        return error.failure()
    if isinstance(error, XenAPI.Failure):
        return [str(detail) for detail in error.details]
    return ["SXM_INTERNAL", error.__class__.__name__, str(error)]
