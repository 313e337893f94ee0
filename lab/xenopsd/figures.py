# SPDX-License-Identifier: LGPL-2.1-only
"""What a migration took: the times at which its parts were done."""

import time


class Figures:
    """Marks of one migration, in seconds since the epoch, so that both hosts' can be compared."""

    def __init__(self, marks=None):
        self.marks = dict(marks or {})

    def mark(self, name):
        """Now."""
        self.marks[name] = time.time()

    def seconds(self, first, last):
        """Between two marks."""
        return round(self.marks[last] - self.marks[first], 6)

    def summary(self, at_switch, memory_bytes):
        """What VM.stat tells: `downtime` is suspend to resume, without the time of
        lab-at-switch."""
        measuring = at_switch["seconds"] if at_switch else 0.0
        return {
            "downtime": round(self.seconds("suspend", "resumed") - measuring, 6),
            "quiesce": self.seconds("suspend", "quiet"),
            "deactivate": self.seconds("quiet", "deactivated"),
            "activate": self.seconds("activate", "activated"),
            "resume": round(self.seconds("activated", "resumed") - measuring, 6),
            "memory_bytes": memory_bytes,
            "suspended_at": self.marks["suspend"],
            "resumed_at": self.marks["resumed"],
            "at_switch": at_switch or {},
        }
