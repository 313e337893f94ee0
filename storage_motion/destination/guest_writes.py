# SPDX-License-Identifier: LGPL-2.1-only
"""Whether a guest is writing just now: a disk's mirror tells its copy, which gives way then."""

import time

RECENT = 0.1  # seconds for which a write makes the next one likely


class GuestWrites(object):
    """Those of one disk."""

    def __init__(self) -> None:
        self._latest = -RECENT

    def came(self) -> None:
        """One, or several, came just now."""
        self._latest = time.monotonic()

    def are_coming(self) -> bool:
        """Whether one came a moment ago."""
        return time.monotonic() - self._latest < RECENT
