# SPDX-License-Identifier: LGPL-2.1-only
"""What a migration has to tell its user that ends it neither way. The status shows it beside the
plan's warnings."""

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration

log = logging.getLogger("sxm")


def add(m: "Migration", text: str) -> None:
    """Tell the user this sentence: once, however often the migration comes by here."""
    told = m.entry.get("warnings", [])
    if text not in told:
        log.warning("%s: %s", m.id, text)
        m.note(warnings=told + [text])
