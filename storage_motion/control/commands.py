"""What the plugin does for the administrator: migrate, status, list, cancel, resume, recover. Each takes (session, {name: string})."""
import json
import time

import XenAPI

from storage_motion.control import (arguments, cautions, installed, journal, migration, planner,
                                    recovery, relinking, resume, secrets, status, verdict, waiting)
from storage_motion.control.arguments import Problems
from storage_motion.control.journal import Journal
from storage_motion.dom0 import inventory, launch
from storage_motion.errors import BadArguments, JournalError, MotionError, NoSuchMigration, NothingToResume, TooLate, Unreachable, WorkerDied
from storage_motion.xapi import session as sessions
from storage_motion.xapi.records import Records

WORKER = "storage_motion.control.worker"
UNIT = "sxm-worker@%s"     # rpm/sxm-worker@.service
START_TIMEOUT = 60.0       # for the worker to make its task
CONNECT_TIMEOUT = 30.0     # seconds to wait for another pool's master
POLL = 0.5
CANCEL_TIMEOUT = 60.0


class RemoteFailure(MotionError):
    """A failure of the plugin on another host, or of xapi: passed on as it came."""

    def __init__(self, description):
        super(RemoteFailure, self).__init__(*description[1:])
        self.code = description[0]


def migrate(session, given):
    """Move a VM. Answers at once with `wait=false`, with what would be done with `dry-run=true`, else when it has ended."""
    problems = Problems()
    request = arguments.read(given, problems)
    source = Records(session)
    here = source.ref("host", inventory.host_uuid())
    vm_ref, vm = planner.find_vm(request, source, problems)
    home = planner.home(source, vm, here) if vm else None
    if vm and home is None:
        problems.add(request.vm_argument, "no host sees all its disks", "plug its SRs on one host")
    elif vm and home != here:
        return _elsewhere(session, home, request, given)
    destination, end = _connect(request, session, problems)
    try:
        view = source if destination is session else Records(destination) if destination else None
        plan = planner.make(request, source, view, vm, here, problems) if vm and home else None
        if plan:
            hosts = installed.require(source, view, plan, problems)
            plan = plan._replace(warnings=tuple(cautions.of(source, view, plan, hosts)))
        if plan and not problems:
            relinking.require(session, source, plan, problems)
        problems.raise_any()
        verdict.ask(session, destination, plan)
        if request.dry_run:
            return {"plan": plan.to_json()}
    finally:
        end()
    started = _start(request, plan)
    return wait(session, started["migration"]) if request.wait else started


def status_of(session, given):
    """The status of a migration of this pool, wherever its worker runs."""
    return _where_known(session, given, "status", lambda entry: status.of(entry.entry))


def list_all(session, given):
    """All migrations of this pool, newest first. `unreadable`: failures, one for each journal that cannot be trusted."""
    found, unreadable = [], []
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
    return {"migrations": sorted(found, key=lambda entry: entry["started"], reverse=True), "unreadable": unreadable}


def cancel(session, given):
    """Stop a migration and take it back, if that is still possible. Answers when it has ended; raises TooLate."""
    return _where_known(session, given, "cancel", _cancel)


def resume_now(session, given):
    """Have a migration that is broken, and waits for its next try or has used up all of them, try at once. Raises NothingToResume."""
    return _where_known(session, given, "resume", _resume)


def recover(session, given):
    """Bring interrupted migrations of this host to an end: all, or the one that is meant by `migration` or `vm`."""
    for name in ("migration", "vm"):
        if given.get(name) == "":
            raise BadArguments("%s: is empty; leave it out to recover all migrations of this host" % name)
    if "vm" in given:
        found = _meant(session, dict(given, local="true"))
        given = dict(given, migration=found)
    return recovery.recover(session, given)


def _resume(entry):
    found = entry.entry["migration"]
    if entry.entry["state"] != journal.RUNNING or not entry.entry.get("broken"):
        raise NothingToResume(found, entry.entry["state"])
    _check_worker(entry)
    resume.ask(found)
    return {"migration": found, "state": entry.entry["state"], "broken": entry.entry["broken"]}


def _cancel(entry):
    found = entry.entry["migration"]
    if entry.entry["state"] == journal.RUNNING:
        if entry.entry["committed"]:
            raise TooLate(found, str(entry.entry["phase"]))
        migration.ask_to_cancel(found)

    def ended():
        latest = Journal.load(found)
        if latest.entry["state"] != journal.RUNNING:
            return latest
        if latest.entry["committed"]:
            raise TooLate(found, str(latest.entry["phase"]))
        _check_worker(latest)
        return None
    last = waiting.until(ended, CANCEL_TIMEOUT, "cancel of %s" % found, POLL)
    if last.entry["state"] == journal.SUCCEEDED:
        raise TooLate(found, "end")
    return {"migration": found, "state": last.entry["state"]}


def wait(session, found):
    """Wait for a migration of this host to end. Its final status; raises its error, or WorkerDied."""
    while True:
        entry = Journal.load(found)
        if entry.entry["state"] != journal.RUNNING:
            return _final(status.of(entry.entry))
        _check_worker(entry)
        time.sleep(POLL)


def _final(answer):
    if answer["error"]:
        raise RemoteFailure(answer["error"])
    return answer


def _check_worker(entry):
    """Raise WorkerDied if nobody drives the migration any more. Whoever died may have ended it the moment before."""
    if status.worker_alive(entry.entry):
        return
    latest = Journal.load(entry.entry["migration"])
    if latest.entry["state"] == journal.RUNNING:
        raise _left_alone(latest.entry)


def _left_alone(entry):
    """The error of a migration that nobody drives, and that has not ended."""
    why = status.stopped(entry)
    return RemoteFailure(why) if why else WorkerDied(entry["migration"], str(entry["phase"]))


def _elsewhere(session, host, request, given):
    """Have the host that the VM runs on do it. It answers at once, and is then asked how far it is: no call lasts hours."""
    answer = _call(session, host, "migrate", dict(given, wait="false"))
    if request.dry_run or not request.wait:
        return answer
    while True:
        latest = _call(session, host, "status", {"migration": answer["migration"], "local": "true"})
        if latest["state"] != journal.RUNNING:
            return _final(latest)
        if not latest["alive"]:
            _final(latest)
            raise WorkerDied(latest["migration"], str(latest["phase"]))
        time.sleep(2 * POLL)


def _connect(request, session, problems):
    """(session with the destination pool or None, what ends it). What is wrong goes to `problems`."""
    remote = request.remote
    if remote is None:
        # Something of remote-... may have been given and be wrong: then nothing is known of the destination.
        wrong = any(detail.startswith("remote-") for detail in problems.details)
        return (None if wrong else session), (lambda: None)
    try:
        destination = sessions.remote(remote.url, remote.username, remote.password, CONNECT_TIMEOUT)
        return destination, (lambda: sessions.logout(destination))
    except sessions.BadCredentials:
        problems.add("remote-username, remote-password", "%s refuses them" % remote.url, "those of an administrator of that pool")
    except sessions.HostIsSlave as error:
        problems.add("remote-master", "%s is a slave" % remote.url, "its master, %s" % error.details[1])
    except Unreachable as error:
        problems.add("remote-master", "%s cannot be used: %s" % (remote.url, error.details[1]),
                     "the address of the master of an XCP-ng or XenServer pool")
    return None, (lambda: None)


def _start(request, plan):
    """Write the journal, start the worker, and wait until it has a task. {"migration", "task"}"""
    journal.prune()
    found = journal.new_id()
    if plan.cross_pool:
        secrets.keep(found, "remote", {"username": request.remote.username, "password": request.remote.password})
    try:
        entry = Journal.create(found, **migration.initial(plan, request.retry_limit))
    except MotionError:
        secrets.forget_all(found)
        raise
    try:
        process = launch.start_unit(UNIT % found, launch.python_module(WORKER, found))
    except MotionError as error:
        secrets.forget_all(found)
        entry.write(state=journal.FAILED, error=error.failure())
        raise

    def has_task():
        latest = Journal.load(found).entry
        if latest["task"] or latest["state"] != journal.RUNNING:
            return latest
        if not process.alive():
            raise _left_alone(Journal.load(found).entry)
        return None
    latest = waiting.until(has_task, START_TIMEOUT, "worker of %s" % found)
    if latest["error"] and not latest["task"]:
        raise RemoteFailure(latest["error"])
    return {"migration": found, "task": latest["task"]}


def _where_known(session, given, function, answer):
    """`answer(journal)` on the host that has the journal of the migration that is meant."""
    found = _meant(session, given)
    try:
        return answer(Journal.load(found))
    except NoSuchMigration:
        if given.get("local"):
            raise
    for host in _others(session):
        try:
            return _call(session, host, function, {"migration": found, "local": "true"})
        except RemoteFailure as failure:
            if failure.code not in (NoSuchMigration.code, "XENAPI_MISSING_PLUGIN"):
                raise
    raise NoSuchMigration(found)


def _meant(session, given):
    """The id of the migration that `migration` names, or of the one of `vm` that runs, else of the latest.

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
        raise BadArguments("vm: %d VMs that were migrated are called %r; the UUID of one of %s" % (
            len(vms), wanted[:64], ", ".join(sorted(vms))))
    running = [one for one in found if one["state"] == journal.RUNNING]
    if not running and answer["unreadable"]:
        raise RemoteFailure(answer["unreadable"][0])  # it may be just the one that is meant
    if not found:
        raise NoSuchMigration("of VM %s" % wanted[:64])
    return (running or found)[0]["migration"]


def _others(session):
    """The refs of the other hosts of this pool that are alive."""
    view = Records(session)
    mine = inventory.host_uuid()
    hosts = sorted(view.all("host").items())
    return [ref for ref, host in hosts if host["uuid"] != mine and planner.usable(view, host)]


def _call(session, host, function, given):
    try:
        return json.loads(session.xenapi.host.call_plugin(host, "sxm.py", function, given))
    except XenAPI.Failure as failure:
        raise RemoteFailure([str(detail) for detail in failure.details])
