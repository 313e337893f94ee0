# SPDX-License-Identifier: LGPL-2.1-only
"""What this product does in xenopsd's hooks (docs/facts/xapi.md, Hooks; xapi-hooks/):

    python3 -m storage_motion.api.hooks HOOK VM REASON

    vm-pre-start, vm-pre-resume      refuse a VM that would run on a disk which has been handed over, or is about to be
    vm-pre-shutdown, vm-pre-reboot   tell the worker that the guest ends its mirrors
    vm-post-migrate                  note the arrival of the VM

It is run only for a VM that some journal of this host names. Exit status: 0, or REFUSED with the
reason on standard output, which xapi passes on in XAPI_HOOK_FAILED. Anything else that goes wrong
ends by an exception, whose 1 xenopsd takes for "go on". No hook of ours runs at the destination
before the VM has arrived: VM_receive_memory runs vm-post-migrate only (xenops_server.ml). A guest
that reboots there is started, and may be, on its new disks; which disks it would run on is what
decides, not on which host it is.
"""  # noqa: E501

import logging
import sys
from typing import Any, Callable, Dict, Iterator, List, Optional, Set

from storage_motion import log_lines, strict_json
from storage_motion.dom0 import root, xenopsd
from storage_motion.errors import JournalError, NoSuchMigration
from storage_motion.journal import arrival, closing, handed_over, journal, late_word, receiving
from storage_motion.journal.journal import RECEIVING, SOURCE, Journal

REFUSED = 3
LOG = "/var/log/sxm.log"
# reason of vm-pre-shutdown for what is suspended, or has been moved: no mirror ends by that
SUSPEND = "suspend"
HOW = (
    "See where the VM is: sxm.py fn=status migration=%(id)s. Storage XenMotion brings it to one of "
    "its two ends by fn=recover "
    "migration=%(id)s (docs/operations.md)"
)

log = logging.getLogger("sxm")


class Refused(Exception):
    """The VM is not to run here like that; the text says why, and what to do."""


def refuse(vm: str, _: str) -> None:
    """Raise Refused if the VM would run on a disk that a migration has handed over, or may have."""
    disks = xenopsd.disks(vm)
    for migration in _naming(vm, SOURCE):
        try:
            entry = Journal.load(migration).entry
        except NoSuchMigration:
            continue  # forgotten meanwhile
        except (JournalError, OSError) as error:
            if _has_surely_ended(migration):
                continue
            raise Refused(
                "The journal of Storage XenMotion %s, which names this VM, cannot be read (%s), so "
                "its disks may have been handed over. "
                "If the VM is surely not elsewhere, move that file away and start it again"
                % (migration, error)
            )
        handed = handed_over.locators(entry) if entry["plan"]["vm"] == vm else set()
        if not handed:
            continue
        if disks is None and not _arrived(migration):
            raise Refused(
                "Storage XenMotion %s has handed disks of this VM over to host %s, and it cannot "
                "be seen on which it would run. %s"
                % (migration, entry["plan"]["destination_host_name"], HOW % {"id": migration})
            )
        stale = sorted(handed & (disks or set()))
        if stale:
            raise Refused(
                "Storage XenMotion %s has handed disk %s of this VM over to host %s, or is about "
                "to: it would run on what may lack "
                "writes. %s"
                % (
                    migration,
                    ", ".join(stale),
                    entry["plan"]["destination_host_name"],
                    HOW % {"id": migration},
                )
            )
    for migration in _naming(vm, journal.LOCK):
        _refuse_by_note(vm, disks, migration)


def _refuse_by_note(vm: str, disks: Optional[Set[str]], migration: str) -> None:
    """The same where the journal is another host's, which is asked. `disks`: the VM's, None if they
    cannot be seen."""
    from storage_motion.switch import pool_lock

    try:
        note = pool_lock.read(migration)
    except NoSuchMigration:
        return  # forgotten meanwhile
    except JournalError as error:
        raise Refused(
            "The note of Storage XenMotion %s, which names this VM, cannot be read (%s), so its "
            "disks may have been handed over. "
            "If the VM is surely not elsewhere, move that file away and start it again"
            % (migration, error)
        )
    mine = set(note["disks"]) if disks is None else disks & set(note["disks"])
    if note["vm"] != vm or not mine or disks is None and _arrived(migration):
        return
    try:
        stale = sorted(mine & pool_lock.ask(note))
    except Exception as error:  # whatever keeps it from answering
        log.exception("%s: host %s does not answer", migration, note["host_name"])
        raise Refused(
            "Storage XenMotion %s may have handed disk %s of this VM over: only host %s knows, and "
            "it does not answer (%s). Start it "
            "again when that host is back. If it never comes back, and the VM is surely not "
            "elsewhere, move /var/lib/sxm/%s%s.json "
            "of this host away"
            % (
                migration,
                ", ".join(sorted(mine)),
                note["host_name"],
                error,
                journal.LOCK,
                migration,
            )
        )
    if stale:
        raise Refused(
            "Storage XenMotion %s has handed disk %s of this VM over, or is about to, as host %s "
            "says: it would run on what may lack "
            "writes. %s" % (migration, ", ".join(stale), note["host_name"], HOW % {"id": migration})
        )


def _arrived(migration: str) -> bool:
    """Whether it is noted that the VM has arrived here: not so where the note cannot be read."""
    try:
        return arrival.read(migration) is not None
    except JournalError as error:
        log.warning("%s", error)
        return False


def tell_closing(vm: str, reason: str) -> None:
    """The worker of the VM's migration learns that the guest is about to close its disks."""
    if reason != SUSPEND:
        for migration in _mirrored(vm):
            closing.note(migration, reason)
            late_word.take_back(migration, closing.NAME)


def tell_again(vm: str, _: str) -> None:
    """The disks are closed, and about to be opened again: the worker need not wait for its next
    try."""
    from storage_motion.migration import resume

    for migration in _mirrored(vm):
        resume.ask(migration)
        late_word.take_back(migration, resume.RESUME)


def note_arrival(vm: str, _: str) -> None:
    """Note the migration by which the VM has arrived: that whose disks it has."""
    disks = xenopsd.disks(vm)
    for entry in _trusted(vm, RECEIVING):
        made = {
            "%s/%s" % (disk["sr"], disk.get("location"))
            for disk in receiving.of_vm(entry).values()
            if not disk.get("unplugged")  # xenopsd knows nothing of those
        }
        if (
            entry.get("vm") == vm
            and entry["state"] == journal.RUNNING
            and made
            and (disks is None or made <= disks)
        ):
            arrival.note(entry["migration"], vm)
            log.info("%s: VM %s has arrived", entry["migration"], vm)
            return


HOOKS: Dict[str, Callable[[str, str], None]] = {
    "vm-pre-start": refuse,
    "vm-pre-resume": refuse,
    "vm-pre-shutdown": tell_closing,
    "vm-pre-reboot": tell_again,
    "vm-post-migrate": note_arrival,
}


def _naming(vm: str, side: str) -> Iterator[str]:
    """The ids of the journals of one side that have the VM's UUID in their text, the newest first,
    whatever else is in them."""
    for migration in journal.all_ids(side):
        try:
            with open(
                root.path("%s/%s%s.json" % (journal.DIRECTORY, side, migration)), "rb"
            ) as source:
                if vm.encode() not in source.read(journal.MAX_BYTES):
                    continue
        except FileNotFoundError:
            continue
        except OSError as error:
            # whether it names the VM cannot be known
            log.warning("%s%s: %s", side, migration, error)
            continue
        yield migration


def _trusted(vm: str, side: str) -> Iterator[Dict[str, Any]]:
    """The contents of those that can be read; of another one that cannot, no worker of this VM's
    hears less, and no arrival goes unnoted."""
    for migration in _naming(vm, side):
        try:
            yield Journal.load(migration, side).entry
        except NoSuchMigration:
            continue  # forgotten meanwhile
        except (JournalError, OSError) as error:
            log.warning("%s", error)


def _mirrored(vm: str) -> Iterator[str]:
    """The migrations of the VM that mirror a disk of it now, or rely on it that it has one open
    read-only. Those that only send disks of snapshots do neither: the guest has none open."""
    for entry in _trusted(vm, SOURCE):
        if (entry["plan"]["vm"], entry["state"], entry["committed"]) == (
            vm,
            journal.RUNNING,
            False,
        ):
            live = entry["plan"]["live"]
            frozen = {disk["key"] for disk in entry["plan"].get("history", ())}
            if any(
                disk.get("mirror") or live and disk["state"] in ("copying", "in-sync")
                for key, disk in entry["disks"].items()
                if key not in frozen
            ):
                yield entry["migration"]


def _has_surely_ended(migration: str) -> bool:
    """Whether a journal that cannot be trusted, such as one of an older version, says at least
    that."""
    try:
        with open(root.path("%s/%s.json" % (journal.DIRECTORY, migration)), "rb") as source:
            entry = strict_json.loads(source.read(journal.MAX_BYTES).decode("utf-8"))
    except (OSError, ValueError):
        return False
    return (
        isinstance(entry, dict)
        and entry.get("left") == []
        and entry.get("state") in journal.STATES
        and entry["state"] != journal.RUNNING
    )


def _log_to_file() -> None:
    """In the log as far as there is one: a log that cannot be written hinders nobody."""
    try:
        handler = logging.FileHandler(root.private_file(LOG), encoding="utf-8")
    except OSError:
        return
    handler.setFormatter(log_lines.Formatter("hook"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def main(arguments: List[str]) -> int:
    """Run a hook. The exit status."""
    hook, vm, reason = arguments
    _log_to_file()
    try:
        HOOKS[hook](vm, reason)
    except Refused as refused:
        log.warning("%s of VM %s is refused: %s", hook, vm, refused)
        # xenopsd gives no locale, and a host's name may have any letters: that must not end in an
        # exception.
        sys.stdout.buffer.write(("%s\n" % refused).encode("utf-8", "replace"))
        sys.stdout.flush()
        return REFUSED
    except Exception:
        log.exception("%s of VM %s (%s)", hook, vm, reason)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
