# SPDX-License-Identifier: LGPL-2.1-only
"""The messages (alerts) about a VM that changes its pool come along, at the end, as xapi has them
do. Those that have been seen at the destination go at the source, and no others.

Nothing else depends on them: what goes wrong is warned of."""

from typing import TYPE_CHECKING, Any, Dict, List

import XenAPI

from storage_motion.migration.accessory import no_more_than_warned_of
from storage_motion.xapi import sent_messages, unanswered
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration

GONE = "HANDLE_INVALID"


def move(m: "Migration") -> None:
    """Move those that are there still."""
    if not m.plan.cross_pool:
        return
    with no_more_than_warned_of(m, lambda why: _warn(m, "the", why)):
        if Records(m.source).ref("VM", m.plan.vm) is None:
            return
        left = unanswered.twice((m.source, m.destination), lambda: _move(m))
        if left:
            _warn(m, "%d" % len(left), "they were sent, and are not there")


def _move(m: "Migration") -> List[str]:
    """Returns the refs of those that have not arrived."""
    here = sent_messages.about(m.source, m.plan.vm)
    there = sent_messages.about(m.destination, m.plan.vm) if here else {}
    lacking = {ref: record for ref, record in here.items() if not _is_there(ref, record, there)}
    if lacking:
        sent_messages.send(m.plan.master, m.destination, m.plan.vm, lacking)
        there = sent_messages.about(m.destination, m.plan.vm)
    left = []
    for ref, record in sorted(here.items()):
        if not _is_there(ref, record, there):
            left.append(ref)
            continue
        try:
            m.source.xenapi.message.destroy(ref)
        except XenAPI.Failure as failure:
            if failure.details[0] != GONE:
                raise
    return left


def _is_there(ref: str, record: Dict[str, Any], there: sent_messages.Messages) -> bool:
    found = there.get(ref, {})
    return all(found.get(field) == record[field] for field in sent_messages.FIELDS)


def _warn(m: "Migration", which: str, why: str) -> None:
    m.warn(
        "%s messages (alerts) about VM %s could not be moved to its new pool: %s; they stay in the "
        "pool that it leaves: xe message-list obj-uuid=%s there"
        % (which, m.plan.vm_name, why, m.plan.vm)
    )
