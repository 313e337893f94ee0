# SPDX-License-Identifier: LGPL-2.1-only
"""The marks by which `sxm doctor` finds in a pool's records what a migration, or SM, has left."""

import re
from typing import Any, Dict, Optional, Tuple

from storage_motion.migration.phases import blocking
from storage_motion.plan import checks, formats
from storage_motion.sm import marks
from storage_motion.sm.sr_types import DRIVERS_OF_TYPES
from storage_motion.xapi.records import Records

CLAIM = checks.CLAIM
PAUSED, RELINKING = marks.PAUSED, marks.RELINKING
PAUSED_BY_SM, RELINKED_BY_SM = marks.PAUSED_BY_SM, marks.RELINKED_BY_SM
SR_TYPES = tuple(sorted(DRIVERS_OF_TYPES))

_BLOCKED = re.compile(re.escape(blocking.reason("@")).replace(re.escape("@"), "([0-9a-f-]{36})"))


def claimed_by(record: Dict[str, Any]) -> Optional[str]:
    """The migration whose mark a VM or a VDI (its record) carries, or None."""
    marks_of = [record["other_config"].get(key) for key in blocking.MARKS]
    return next((one for one in marks_of if one), None)


def locked_by(vdi: Dict[str, Any]) -> bool:
    """Whether a lock of ours is on a VDI (its record): at the source with a migration's id, or of
    one that receives."""
    ours = marks.of_source("")
    values = [vdi["sm_config"].get(key, "") for key in (PAUSED, RELINKING)]
    return any(value == marks.SHUT or value.startswith(ours) for value in values)


def blocked_by(vm: Dict[str, Any]) -> Tuple[str, ...]:
    """The migrations that block operations of a VM (its record)."""
    found = [_BLOCKED.match(text) for text in vm["blocked_operations"].values()]
    return tuple(sorted({one.group(1) for one in found if one}))


def formats_of(records: Records, sr: Dict[str, Any]) -> Tuple[str, ...]:
    """The formats of the disks that an SR (its record) takes, as far as xapi has it from SM."""
    return formats.supported(records, sr) or formats.UNKNOWN
