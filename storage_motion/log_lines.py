# SPDX-License-Identifier: LGPL-2.1-only
"""The lines of /var/log/sxm.log: one a step, with its time in UTC, who wrote it, the level, and the
migration's id."""

import logging
import re
import time
from typing import NamedTuple, Optional

LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?P<by>[^\s\[]+)\[\d+\] (?P<level>[A-Z]+) "
    r"(?P<text>.*)"
)


class Line(NamedTuple):
    """A line that was read back. `time`: as ISO 8601 has it, in UTC."""

    time: str
    by: str
    level: str
    text: str


class Formatter(logging.Formatter):
    """`by`: who writes. `migration`: the id of the one that all its lines are of, or ""."""

    def __init__(self, by: str, migration: str = "") -> None:
        super(Formatter, self).__init__(
            "%(asctime)s.%(msecs)03dZ " + by + "[%(process)d] %(levelname)s %(message)s"
        )
        self._migration = migration

    def formatTime(self, record: logging.LogRecord, datefmt: Optional[str] = None) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))

    def formatMessage(self, record: logging.LogRecord) -> str:
        if self._migration not in record.message:
            record.message = "%s: %s" % (self._migration, record.message)
        return super(Formatter, self).formatMessage(record)


def read(text: str) -> Optional[Line]:
    """A line as Formatter writes it; None for another, as those of a traceback."""
    found = LINE.match(text)
    return Line(**found.groupdict()) if found else None
