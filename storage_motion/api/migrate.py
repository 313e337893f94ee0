# SPDX-License-Identifier: LGPL-2.1-only
"""The function `migrate`: both pools are looked at, a plan is made and judged, and a worker started
for it; or the host that the VM runs on is asked to do so."""

import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from storage_motion import waiting
from storage_motion.api import arguments, dead_worker, dry_run, other_hosts, outcome, status
from storage_motion.api.arguments import Problems, Request
from storage_motion.api.other_hosts import RemoteFailure
from storage_motion.dom0 import inventory, launch
from storage_motion.errors import BadCredentials, HostIsSlave, MotionError, Refused, Unreachable
from storage_motion.journal import course, journal, kept_files, secret_files
from storage_motion.journal.journal import Journal
from storage_motion.migration import migration, xapi_verdict
from storage_motion.plan import (
    bases,
    cautions,
    chains,
    installed,
    planner,
    relinking,
    room,
    up_to_date,
)
from storage_motion.plan.plan import Plan
from storage_motion.xapi import session as sessions
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    import XenAPI

WORKER = "storage_motion.migration.worker"
UNIT = "sxm-worker@%s"  # rpm/sxm-worker@.service
START_TIMEOUT = 120.0  # for the worker, or the one that follows it, to make its task
CONNECT_TIMEOUT = 30.0  # seconds to wait for another pool's master


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
    rooms: List[room.Room] = []
    try:
        view = source if destination is session else Records(destination) if destination else None
        plan = _plan(request, source, view, vm, home, problems)
        if plan and view:
            hosts = installed.require(source, view, plan, problems)
        scanned = False
        if plan and view and home and not problems:
            unscanned = up_to_date.scan(source, view, plan, problems) if request.scan else []
            scanned = request.scan and not (unscanned or problems)
            # What was read before is old now, and the plan with it.
            source = Records(session)
            view = source if destination is session else Records(destination)
            vm = source.of("VM", vm_ref)
            if not vm:
                problems.add(request.vm_argument, "the VM was destroyed meanwhile", "name another")
            plan = _plan(request, source, view, vm, home, problems)
        if plan and view and not problems:
            ends = room.data_ends(session, source, plan)
            plan = room.with_data(plan, source, ends)
            short = room.require(ends, source, view, plan, request, problems, rooms)
            plan, unscanned = bases.without(plan, short), unscanned + bases.cautions(short)
            relinking.require(session, source, plan, problems)
            warnings = unscanned + chains.require(source, plan, problems)
            warnings += cautions.of(source, view, plan, hosts)
            plan = plan._replace(warnings=plan.warnings + tuple(warnings))
        if request.dry_run:
            refused = _verdict(session, destination, request, plan, problems)
            answer = dry_run.answer(source, view, vm, plan, rooms, problems, refused)
            return dict(answer, scanned=scanned)
        problems.raise_any()
        assert plan is not None
        xapi_verdict.ask(session, destination, plan)
    finally:
        end()
    started = _start(request, plan)
    return outcome.wait(session, started["migration"]) if request.wait else started


def _verdict(
    session: "XenAPI.Session",
    destination: Optional["XenAPI.Session"],
    request: Request,
    plan: Optional[Plan],
    problems: Problems,
) -> Optional[List[str]]:
    """For a dry run: why xapi would not do it, [code, detail, ...]; None if it would, or is not
    asked. Raises BadArguments or Refused instead, unless they are to be answered."""
    if not request.answer_problems:
        problems.raise_any()
    if plan is None or problems:
        return None
    try:
        xapi_verdict.ask(session, destination, plan)
    except Refused as refused:
        if not request.answer_problems:
            raise
        return refused.failure()
    return None


def _elsewhere(
    session: "XenAPI.Session", host: str, request: Request, given: Dict[str, str]
) -> Dict[str, Any]:
    """Have the host that the VM runs on do it. It answers at once, and is then asked how far it is:
    no call lasts hours."""
    answer = other_hosts.call(session, host, "migrate", dict(given, wait="false"))
    if request.dry_run or not request.wait:
        return answer
    worker_watch = dead_worker.DeadWorkerWatch()
    while True:
        latest = other_hosts.call(
            session, host, "status", {"migration": answer["migration"], "local": "true"}
        )
        if latest["state"] != journal.RUNNING:
            return outcome.final(latest)
        if not latest["alive"]:
            outcome.final(latest)
        worker_watch.look(latest["alive"], latest["migration"], str(latest["phase"]))
        time.sleep(2 * outcome.POLL)


def _plan(
    request: Request,
    source: Records,
    view: Optional[Records],
    vm: Optional[Dict[str, Any]],
    home: Optional[str],
    problems: Problems,
) -> Optional[Plan]:
    if not vm or not home:
        return None
    return planner.make(request, source, view, vm, home, problems, kept_files.room())


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
    journal.prune(also=course.forget)
    kept_files.prune()
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
    process = None
    try:
        process = launch.start_unit(UNIT % found, launch.python_module(WORKER, found))
    except MotionError as error:
        # One that has said who it is has begun, and died before it was seen: its task and its
        # claims are recovered as those of any other.
        if not Journal.load(found).entry["worker"]:
            secret_files.forget_all(found)
            entry.write(state=journal.FAILED, error=error.failure())
            raise

    def has_task() -> Optional[Dict[str, Any]]:
        latest = Journal.load(found).entry
        if latest["task"] or latest["state"] != journal.RUNNING:
            return latest
        started = process is not None and process.alive()
        driven = started or latest["worker"] and status.worker_alive(latest)
        outcome.see_to_it(worker_watch, driven, latest)
        return None

    worker_watch = dead_worker.DeadWorkerWatch()
    latest = waiting.until(has_task, START_TIMEOUT, "worker of %s" % found)
    if latest["error"] and not latest["task"]:
        raise RemoteFailure(latest["error"])
    return {"migration": found, "task": latest["task"]}
