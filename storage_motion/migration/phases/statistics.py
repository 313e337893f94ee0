# SPDX-License-Identifier: LGPL-2.1-only
"""The VM's statistics (xapi/rrd.py) come along, at the end, as xapi has them do: into the memory of
the host where the VM runs now, or, of a VM that does not run, to the files of its new master.

Unlike xapi it looks whether they have arrived before they leave the source. What the new host has
noted of the VM since it arrived, some seconds, gives way to the history. Nothing else depends on
them: what goes wrong is warned of.
"""

import logging
from typing import TYPE_CHECKING, Optional, Tuple

from storage_motion.errors import Unreachable
from storage_motion.journal import kept_files
from storage_motion.migration.accessory import kept, no_more_than_warned_of
from storage_motion.migration.phases import remap
from storage_motion.switch import whereabouts
from storage_motion.xapi import receiving_host, rrd, unanswered
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration

# Whether each source of an RRD says when it was updated: rrdd has wanted that since October 2024
# (rrd.ml, a897b53abc), and refuses it before.
FORMS = (True, False)

log = logging.getLogger("sxm")


def move(m: "Migration") -> None:
    """Move them, unless they are where they should be, or have moved already."""
    if m.plan.same_host or not (m.plan.live or m.plan.cross_pool):
        return  # rrdd finds the VM again by its UUID; and a file of the master's stays there

    def tell(why: str) -> None:
        former = "; the former one: " + kept(m, lambda: _keep(m)) if m.plan.cross_pool else ""
        m.warn(
            "the statistics (RRD) of VM %s could not be moved to host %s: %s; its history begins "
            "anew there%s" % (m.plan.vm_name, m.plan.destination_host_name, why, former)
        )

    with no_more_than_warned_of(m, tell):
        if Records(m.source).ref("VM", m.plan.vm) is None:
            return
        if not unanswered.twice((m.source, m.destination), lambda: _move(m)):
            tell("they were sent, and are not there")


def _move(m: "Migration") -> bool:
    """Returns whether nothing is amiss. Raises as what it calls does."""
    here, document = _at_source(m)
    if document is None:
        log.info("%s: VM %s has no statistics at the source", m.id, m.plan.vm)
        return True
    if _runs(m):
        arrived = _bring_to_host(m, document)
    else:
        arrived = not m.plan.cross_pool or _bring(m, m.plan.master, document, archive=True)
    if arrived and here is not None:
        _give_up(m)
    return arrived


def _at_source(m: "Migration") -> Tuple[Optional[bytes], Optional[bytes]]:
    """(what the source host has of them in memory, what the source has of them)."""
    here = rrd.in_memory(m.plan.vm) if m.plan.live else None
    if here is None and m.plan.cross_pool:  # archived, when the source's xapi noted it as halted
        return None, rrd.of_own_pool(m.source, m.plan.vm)
    return here, here


def _keep(m: "Migration") -> Optional[str]:
    """Keep them as a file; its path, None if there are none."""
    document = _at_source(m)[1]
    if document is None:
        return None
    return kept_files.keep(m.id, "rrd.xml", [rrd.as_sent(document)])


def _give_up(m: "Migration") -> None:
    """What the source host still has of them it would archive once a day, over what the VM has by
    then."""

    def tell(why: str) -> None:
        m.warn(
            "host %s has not given up the statistics (RRD) of VM %s, which have moved: %s; it has "
            "them until it is booted anew" % (m.plan.source_host_name, m.plan.vm_name, why)
        )

    with no_more_than_warned_of(m, tell):
        rrd.archive(m.source, m.source.xenapi.host.get_by_uuid(m.plan.source_host), m.plan.vm)


def _runs(m: "Migration") -> bool:
    state = m.destination.xenapi.VM.get_power_state(remap.destination_vm(m))
    return m.plan.live and state in whereabouts.LIVE


def _bring_to_host(m: "Migration", document: bytes) -> bool:
    answer = receiving_host.ask(
        m.destination, m.host(), m.destination.xenapi.network.get_by_uuid(m.plan.network)
    )
    try:
        return _bring(m, receiving_host.base_url(answer), document, archive=False)
    finally:
        receiving_host.leave(m.destination, answer)


def _bring(m: "Migration", url: str, document: bytes, archive: bool) -> bool:
    def has_arrived() -> bool:
        there = rrd.at(url, m.destination, m.plan.vm)
        return there is not None and rrd.holds(there, document)

    trouble: Optional[Unreachable] = None
    for dated in FORMS:
        # first: what has arrived is not put once more over what has come to it since
        if has_arrived():
            return True
        try:
            rrd.send(url, m.destination, m.plan.vm, document, archive, dated)
        except Unreachable as error:
            # One that cannot read it cuts the connection, too: the other form has its turn.
            log.info("%s: %s", m.id, error)
            trouble = error
    if has_arrived():
        return True
    if trouble:
        raise trouble
    return False
