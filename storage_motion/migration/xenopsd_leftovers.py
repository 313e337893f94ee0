# SPDX-License-Identifier: LGPL-2.1-only
"""What a move leaves in xenopsd, and what xapi does not hear of it (docs/facts/xapi.md, Run, 3, and
The whole stack, 2).

xenopsd gives a VM that it moves another id: `leaving` at the source once it is suspended,
`incoming` at the destination until it runs. Of neither does xapi know, so nobody tells it that the
VM has gone; and a move that fails leaves them: the one at the source suspended, with its disks
attached, the one at the destination paused (behind the renaming under the VM's own id). While they
are there the VM cannot be moved.

So they are ended, and xapi is told: the VM's metadata, kept from before, is given back to the
source's xenopsd, where it describes a halted VM, and xapi is made to look at it. It notes the VM as
halted, and has xenopsd forget it. Every step may find the former ones done.
"""

import json
from typing import TYPE_CHECKING

import XenAPI

from storage_motion import waiting
from storage_motion.errors import MoveFailed, NotCleanedUp, TimedOut
from storage_motion.journal import xenopsd_export
from storage_motion.migration.phases import adopt, claim
from storage_motion.switch import whereabouts
from storage_motion.xapi import xenops
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration

NOTICE_TIMEOUT = 30.0  # for xapi to note what xenopsd tells it


def local(m: "Migration") -> xenops.Xenops:
    """The Xenops of this host."""
    return xenops.Xenops.local(m.source, "sxm " + m.id)


def keep(m: "Migration", here: xenops.Xenops) -> None:
    """Before the move: keep what xenopsd knows of the VM. Its domain's state is left out: what is
    given back is a VM without one.

    Raises MoveFailed if xenopsd's answer is not what it should be."""
    try:
        known = json.loads(here.export_metadata(m.plan.vm))
        known.pop("domains", None)
    except (ValueError, AttributeError, TypeError):
        raise MoveFailed(m.plan.vm, "xenopsd's VM.export_metadata answers no metadata")
    xenopsd_export.keep(m.id, json.dumps(known))


def end_earlier(m: "Migration", here: xenops.Xenops) -> None:
    """Before the move: end what an earlier one has left. Nobody else can be moving the VM: it runs
    under its own id, and is claimed."""
    _end_at_rest(here, xenops.leaving(m.plan.vm))
    _end_at_rest(whereabouts.xenopsd_there(m), xenops.incoming(m.plan.vm))


def end_arrival(m: "Migration") -> None:
    """The VM is not at the destination: end what xenopsd there has of it."""
    if m.lost:
        return
    there = whereabouts.xenopsd_there(m)
    _end_at_rest(there, xenops.incoming(m.plan.vm))
    if not m.plan.same_host:
        _end_at_rest(there, m.plan.vm)


def come_back(m: "Migration") -> None:
    """The VM is at the source. One that has been suspended cannot go on: like xapi, shut it down,
    its data is whole."""
    here = local(m)
    left = xenops.leaving(m.plan.vm)
    if m.plan.same_host and here.power_state(left) is not None:
        here.end(m.plan.vm)  # the copy that was arriving
    here.end(left)
    if here.power_state(m.plan.vm) in whereabouts.LIVE:
        return
    if here.power_state(m.plan.vm) == "Suspended":
        here.end(m.plan.vm)
    note_halted(m)
    if m.plan.same_host:
        adopt.give_back(m)


def leave(m: "Migration") -> None:
    """The VM is at the destination: end what is left of it here. Raises NotCleanedUp if it runs
    here, which must never be."""
    here = local(m)
    here.end(xenops.leaving(m.plan.vm))
    if m.plan.same_host:
        return
    if here.power_state(m.plan.vm) in whereabouts.LIVE:
        raise NotCleanedUp("VM %s is running at the source as well" % m.plan.vm)
    here.end(m.plan.vm)


def note_halted(m: "Migration") -> None:
    """Have the source's xapi note that the VM does not run on this host, where xenopsd has ended
    it. A VM whose record is gone has none to note it in.

    Raises NotCleanedUp where xapi does not."""
    here, api = local(m), m.source.xenapi.VM
    vm = Records(m.source).ref("VM", m.plan.vm)
    if vm is None:
        here.forget(m.plan.vm)
        return
    state = api.get_power_state(vm)
    if state == "Halted":
        here.forget(m.plan.vm)
        return
    # without an image of its memory: xapi has seen it suspended, and taken that for a suspend
    if state == "Suspended":
        claim.lift(m, vm, "hard_shutdown")
        api.hard_shutdown(vm)
        return
    if here.power_state(m.plan.vm) is None and not _give_back(m, here):
        _reset(m, vm)
    here.refresh(m.plan.vm)
    try:
        waiting.until(
            lambda: api.get_power_state(vm) == "Halted",
            NOTICE_TIMEOUT,
            "VM %s to be halted at the source" % m.plan.vm,
        )
    except TimedOut:
        # A xapi that was killed in mid-move finds the temporary id at its start, fails to end it,
        # and hears nothing of xenopsd from then on, until it is started again (seen on the real
        # one).
        _reset(m, vm)


def _end_at_rest(xenopsd: xenops.Xenops, vm: str) -> None:
    """Have a xenopsd end a VM that cannot be running: one that is all the same is none of ours."""
    if xenopsd.power_state(vm) == "Running":
        raise MoveFailed(vm, "xenopsd runs a VM of that id")
    xenopsd.end(vm)


def _give_back(m: "Migration", here: xenops.Xenops) -> bool:
    """Give what was kept back to xenopsd. Whether there was anything."""
    text = xenopsd_export.get(m.id)
    if text is None:
        return False
    here.import_metadata(text)
    return True


def _reset(m: "Migration", vm: str) -> None:
    """Have xapi note it without xenopsd's word: of a VM of its master's it does; a member it
    trusts."""
    try:
        m.source.xenapi.VM.power_state_reset(vm)
    except XenAPI.Failure as failure:
        raise NotCleanedUp(
            "VM %s is not noted as halted by the xapi of its former host: %s; restart the "
            "toolstack of that "
            "host, then recover" % (m.plan.vm, " ".join(str(detail) for detail in failure.details))
        )
