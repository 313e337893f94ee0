# SPDX-License-Identifier: LGPL-2.1-only
"""What the plugin does for the administrator: migrate, status, list, cancel, resume, limit,
recover. Each takes (session, {name: string})."""

import json
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import XenAPI

from storage_motion import waiting
from storage_motion.api import arguments, dead_worker, status
from storage_motion.api.arguments import Problems, Request
from storage_motion.dom0 import inventory, launch
from storage_motion.errors import (
    BadArguments,
    BadCredentials,
    HostIsSlave,
    JournalError,
    MotionError,
    NoSuchMigration,
    NothingToResume,
    NotRunning,
    TooLate,
    Unreachable,
    WorkerDied,
)
from storage_motion.journal import journal, secret_files
from storage_motion.journal.journal import Journal
from storage_motion.migration import bandwidth, migration, recovery, resume, xapi_verdict
from storage_motion.plan import cautions, checks, installed, planner, relinking, room, up_to_date
from storage_motion.plan.plan import Plan
from storage_motion.xapi import session as sessions
from storage_motion.xapi.records import Records

WORKER = "storage_motion.migration.worker"
UNIT = "sxm-worker@%s"  # rpm/sxm-worker@.service
START_TIMEOUT = 120.0  # for the worker, or the one that follows it, to make its task
CONNECT_TIMEOUT = 30.0  # seconds to wait for another pool's master
POLL = 0.5
# seconds for all to be taken back, also by the worker that follows one that has died
CANCEL_TIMEOUT = 180.0


class RemoteFailure(MotionError):
    """A failure of the plugin on another host, or of xapi: passed on as it came."""

    def __init__(self, description: Sequence[str]) -> None:
        super(RemoteFailure, self).__init__(*description[1:])
        self.code = description[0]


def migrate(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Move a VM. Answers at once with `wait=false`, with what would be done with `dry-run=true`,
    else when it has ended."""
    problems = Problems()
    request = arguments.read(given, problems)
    source = Records(session)
    here = source.ref("host", inventory.host_uuid())
    vm_ref, vm = planner.find_vm(request, source, problems)
    home = planner.home(source, vm, here) if vm else None
    if vm and home is None:
        problems.add(request.vm_argument, "no host sees all its disks", "plug its SRs on one host")
    elif home is not None and home != here:
        return _elsewhere(session, home, request, given)
    destination, end = _connect(request, session, problems)
    try:
        view = source if destination is session else Records(destination) if destination else None
        plan = planner.make(request, source, view, vm, home, problems) if vm and home else None
        if plan and view:
            hosts = installed.require(source, view, plan, problems)
        if plan and view and home and not problems:
            unscanned = up_to_date.scan(source, view, plan, problems)
            # What was read before is old now, and the plan with it.
            source = Records(session)
            view = source if destination is session else Records(destination)
            vm = source.of("VM", vm_ref)
            if not vm:
                problems.add(request.vm_argument, "the VM was destroyed meanwhile", "name another")
            plan = planner.make(request, source, view, vm, home, problems) if vm else None
        if plan and view and not problems:
            room.require(session, source, view, plan, request, problems)
            relinking.require(session, source, plan, problems)
            warnings = unscanned + cautions.of(source, view, plan, hosts)
            plan = plan._replace(warnings=tuple(warnings))
        problems.raise_any()
        assert plan is not None
        xapi_verdict.ask(session, destination, plan)
        if request.dry_run:
            return {"plan": plan.to_json()}
    finally:
        end()
    started = _start(request, plan)
    return wait(session, started["migration"]) if request.wait else started


def status_of(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """The status of a migration of this pool, wherever its worker runs."""
    return _where_known(session, given, "status", lambda entry: status.of(entry.entry))


def list_all(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """All migrations of this pool, newest first. `unreadable`: failures, one for each journal that
    cannot be trusted."""
    found: List[Dict[str, Any]] = []
    unreadable: List[List[str]] = []
    for known in journal.all_ids():
        try:
            found.append(status.brief(Journal.load(known).entry))
        except NoSuchMigration:
            pass  # forgotten meanwhile
        except JournalError as error:
            unreadable.append(error.failure())
    if not given.get("local"):
        for host in _others(session):
            try:
                there = _call(session, host, "list", {"local": "true"})
                found.extend(there["migrations"])
                unreadable.extend(there.get("unreadable", []))
            except RemoteFailure as failure:
                if failure.code != "XENAPI_MISSING_PLUGIN":
                    raise
    return {
        "migrations": sorted(found, key=lambda entry: entry["started"], reverse=True),
        "unreadable": unreadable,
    }


def cancel(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Stop a migration and take it back, if that is still possible. Answers when it has ended;
    raises TooLate."""
    return _where_known(session, given, "cancel", _cancel)


def resume_now(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Have a migration that is broken, and waits for its next try or has used up all of them, try
    at once. Raises NothingToResume."""
    return _where_known(session, given, "resume", _resume)


def limit(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Change the bandwidth of a migration that runs. Raises BadArguments, NotRunning."""
    problems = Problems()
    bytes_per_second = arguments.bandwidth(given.get("bandwidth", ""), problems)
    problems.raise_any()

    def change(entry: Journal) -> Dict[str, Any]:
        found = entry.entry["migration"]
        if entry.entry["state"] != journal.RUNNING:
            raise NotRunning(found, entry.entry["state"])
        bandwidth.change(found, bytes_per_second)
        return {"migration": found, "bandwidth": bytes_per_second}

    return _where_known(session, given, "limit", change, bandwidth=given["bandwidth"])


def recover(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Bring interrupted migrations of this host to an end: all, or the one that is meant by
    `migration` or `vm`."""
    for name in ("migration", "vm"):
        if given.get(name) == "":
            raise BadArguments(
                "%s: is empty; leave it out to recover all migrations of this host" % name
            )
    if "vm" in given:
        found = _meant(session, dict(given, local="true"))
        given = dict(given, migration=found)
    return recovery.recover(session, given)


def _resume(entry: Journal) -> Dict[str, Any]:
    found = entry.entry["migration"]
    if entry.entry["state"] != journal.RUNNING or not entry.entry.get("broken"):
        raise NothingToResume(found, entry.entry["state"])
    _check_worker(entry)
    resume.ask(found)
    return {"migration": found, "state": entry.entry["state"], "broken": entry.entry["broken"]}


def _cancel(entry: Journal) -> Dict[str, Any]:
    found = entry.entry["migration"]
    if entry.entry["state"] == journal.RUNNING:
        if entry.entry["committed"]:
            raise TooLate(found, str(entry.entry["phase"]))
        migration.ask_to_cancel(found)
    worker_watch = dead_worker.DeadWorkerWatch()

    def ended() -> Optional[Journal]:
        latest = Journal.load(found)
        if latest.entry["state"] != journal.RUNNING:
            return latest
        if latest.entry["committed"]:
            raise TooLate(found, str(latest.entry["phase"]))
        _see_to_it(worker_watch, status.worker_alive(latest.entry), latest.entry)
        return None

    last = waiting.until(ended, CANCEL_TIMEOUT, "cancel of %s" % found, POLL)
    if last.entry["state"] == journal.SUCCEEDED:
        raise TooLate(found, "end")
    return {"migration": found, "state": last.entry["state"]}


def wait(session: "XenAPI.Session", found: str) -> Dict[str, Any]:
    """Wait for a migration of this host to end, also by the worker that follows one that has died.
    Its final status; raises its error, or WorkerDied."""
    worker_watch = dead_worker.DeadWorkerWatch()
    while True:
        entry = Journal.load(found)
        if entry.entry["state"] != journal.RUNNING:
            return _final(status.of(entry.entry))
        _see_to_it(worker_watch, status.worker_alive(entry.entry), entry.entry)
        time.sleep(POLL)


def _see_to_it(
    worker_watch: dead_worker.DeadWorkerWatch, driven: bool, entry: Dict[str, Any]
) -> None:
    """Wait on for a migration that has not ended. Raises what has stopped it, or WorkerDied."""
    why = None if driven else status.stopped(entry)
    if why:
        raise RemoteFailure(why)
    worker_watch.look(driven, entry["migration"], str(entry["phase"]))


def _final(answer: Dict[str, Any]) -> Dict[str, Any]:
    if answer["error"]:
        raise RemoteFailure(answer["error"])
    return answer


def _check_worker(entry: Journal) -> None:
    """Raise WorkerDied if nobody drives the migration any more. Whoever died may have ended it the
    moment before."""
    if status.worker_alive(entry.entry):
        return
    latest = Journal.load(entry.entry["migration"])
    if latest.entry["state"] == journal.RUNNING:
        raise _left_alone(latest.entry)


def _left_alone(entry: Dict[str, Any]) -> MotionError:
    """The error of a migration that nobody drives, and that has not ended."""
    why = status.stopped(entry)
    return RemoteFailure(why) if why else WorkerDied(entry["migration"], str(entry["phase"]))


def _elsewhere(
    session: "XenAPI.Session", host: str, request: Request, given: Dict[str, str]
) -> Dict[str, Any]:
    """Have the host that the VM runs on do it. It answers at once, and is then asked how far it is:
    no call lasts hours."""
    answer = _call(session, host, "migrate", dict(given, wait="false"))
    if request.dry_run or not request.wait:
        return answer
    worker_watch = dead_worker.DeadWorkerWatch()
    while True:
        latest = _call(session, host, "status", {"migration": answer["migration"], "local": "true"})
        if latest["state"] != journal.RUNNING:
            return _final(latest)
        if not latest["alive"]:
            _final(latest)
        worker_watch.look(latest["alive"], latest["migration"], str(latest["phase"]))
        time.sleep(2 * POLL)


def _connect(
    request: Request, session: "XenAPI.Session", problems: Problems
) -> Tuple[Optional["XenAPI.Session"], Callable[[], None]]:
    """(session with the destination pool or None, what ends it). What is wrong goes to
    `problems`."""
    remote = request.remote
    if remote is None:
        # Something of remote-... may have been given and be wrong: then nothing is known of the
        # destination.
        wrong = any(detail.startswith("remote-") for detail in problems.details)
        return (None if wrong else session), (lambda: None)
    try:
        destination = sessions.remote(remote.url, remote.username, remote.password, CONNECT_TIMEOUT)
        return destination, (lambda: sessions.logout(destination))
    except BadCredentials:
        problems.add(
            "remote-username, remote-password",
            "%s refuses them" % remote.url,
            "those of an administrator of that pool",
        )
    except HostIsSlave as error:
        problems.add(
            "remote-master", "%s is a slave" % remote.url, "its master, %s" % error.details[1]
        )
    except Unreachable as error:
        problems.add(
            "remote-master",
            "%s cannot be used: %s" % (remote.url, error.details[1]),
            "the address of the master of an XCP-ng or XenServer pool",
        )
    return None, (lambda: None)


def _start(request: Request, plan: Plan) -> Dict[str, Any]:
    """Write the journal, start the worker, and wait until it has a task. {"migration", "task"}"""
    journal.prune()
    found = journal.new_id()
    if plan.cross_pool:
        assert request.remote is not None
        secret_files.keep(
            found,
            "remote",
            {"username": request.remote.username, "password": request.remote.password},
        )
    try:
        entry = Journal.create(
            found, **migration.initial(plan, request.retry_limit, request.bandwidth)
        )
    except MotionError:
        secret_files.forget_all(found)
        raise
    try:
        process = launch.start_unit(UNIT % found, launch.python_module(WORKER, found))
    except MotionError as error:
        secret_files.forget_all(found)
        entry.write(state=journal.FAILED, error=error.failure())
        raise

    def has_task() -> Optional[Dict[str, Any]]:
        latest = Journal.load(found).entry
        if latest["task"] or latest["state"] != journal.RUNNING:
            return latest
        driven = process.alive() or latest["worker"] and status.worker_alive(latest)
        _see_to_it(worker_watch, driven, latest)
        return None

    worker_watch = dead_worker.DeadWorkerWatch()
    latest = waiting.until(has_task, START_TIMEOUT, "worker of %s" % found)
    if latest["error"] and not latest["task"]:
        raise RemoteFailure(latest["error"])
    return {"migration": found, "task": latest["task"]}


def _where_known(
    session: "XenAPI.Session",
    given: Dict[str, str],
    function: str,
    answer: Callable[[Journal], Dict[str, Any]],
    **more: str,
) -> Dict[str, Any]:
    """`answer(journal)` on the host that has the journal of the migration that is meant. `more`:
    what the function takes besides."""
    found = _meant(session, given)
    try:
        return answer(Journal.load(found))
    except NoSuchMigration:
        if given.get("local"):
            raise
    for host in _others(session):
        try:
            return _call(session, host, function, dict(more, migration=found, local="true"))
        except RemoteFailure as failure:
            if failure.code not in (NoSuchMigration.code, "XENAPI_MISSING_PLUGIN"):
                raise
    raise NoSuchMigration(found)


def _meant(session: "XenAPI.Session", given: Dict[str, str]) -> str:
    """The id of the migration that `migration` names, or of the one of `vm` that runs, else of the
    latest.

    Raises BadArguments if both are given, or more than one VM is called so; NoSuchMigration."""
    wanted = given.get("vm")
    if not wanted:
        return journal.check_id(given.get("migration", ""))
    if given.get("migration"):
        raise BadArguments("vm: is given beside migration; give one of them")
    answer = list_all(session, given)
    called = session.xenapi.VM.get_by_name_label(wanted)
    uuids = {wanted.lower()} | {session.xenapi.VM.get_uuid(ref) for ref in called}
    found = [one for one in answer["migrations"] if one["vm"] in uuids or one["vm_name"] == wanted]
    vms = {one["vm"] for one in found}
    if len(vms) > 1:
        raise BadArguments(
            "vm: %d VMs that were migrated are called %r; the UUID of one of %s"
            % (len(vms), wanted[:64], ", ".join(sorted(vms)))
        )
    running = [one for one in found if one["state"] == journal.RUNNING]
    if not running and answer["unreadable"]:
        raise RemoteFailure(answer["unreadable"][0])  # it may be just the one that is meant
    if not found:
        raise NoSuchMigration("of VM %s" % wanted[:64])
    return (running or found)[0]["migration"]


def _others(session: "XenAPI.Session") -> List[str]:
    """The refs of the other hosts of this pool that are alive."""
    view = Records(session)
    mine = inventory.host_uuid()
    hosts = sorted(view.all("host").items())
    return [ref for ref, host in hosts if host["uuid"] != mine and checks.usable(view, host)]


def _call(
    session: "XenAPI.Session", host: str, function: str, given: Dict[str, str]
) -> Dict[str, Any]:
    try:
        return json.loads(session.xenapi.host.call_plugin(host, "sxm.py", function, given))
    except XenAPI.Failure as failure:
        raise RemoteFailure([str(detail) for detail in failure.details])
