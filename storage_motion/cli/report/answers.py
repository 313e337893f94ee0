# SPDX-License-Identifier: LGPL-2.1-only
"""What `fn=report` answers, also of a plugin that is older than this `sxm`, as a page has it."""

from typing import Any, Dict

from storage_motion.cli.failures import OtherVersion

VERSION = 2
"""Of the answers that a page goes by: the plugin's of this version (storage_motion/api/report.py
has it as well, and what each one brought)."""


def of(pool: Any, **which: str) -> Dict[str, Any]:
    """The report of a migration. `which`: as the plugin takes it. Raises XenAPI.Failure,
    OtherVersion."""
    return understood(pool.plugin("report", **which))


def understood(answer: Dict[str, Any]) -> Dict[str, Any]:
    """The answer as one of VERSION. Raises OtherVersion of one that is newer, or of none."""
    found = answer.get("report")
    if found == 1:
        return _of_first(answer)
    if found != VERSION:
        raise OtherVersion(
            "the plugin answers a report of version %s, and this sxm knows 1 to %d"
            % (found, VERSION)
        )
    return answer


def _of_first(answer: Dict[str, Any]) -> Dict[str, Any]:
    """It counted zeros, which are not sent, among what was verified, and noted no limit."""

    def told(counted: Dict[str, Any]) -> Dict[str, Any]:
        return dict(counted, sent=counted["verified"], zeros=0)

    return dict(
        answer,
        report=VERSION,
        disks=[told(one) for one in answer["disks"]],
        snapshots=[told(one) for one in answer["snapshots"]],
        bytes=told(answer["bytes"]),
        sample_fields=["sent" if name == "verified" else name for name in answer["sample_fields"]],
        timeline=dict(answer["timeline"], limits=[]),
    )
