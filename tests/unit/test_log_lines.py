# SPDX-License-Identifier: LGPL-2.1-only
"""A line of the log says when, in UTC, who, how bad, and of which migration; and is read back."""

import logging
import re

from storage_motion import log_lines

ID = "0f0e0d0c-0000-4000-8000-000000000001"


def written(formatter, text, *arguments):
    record = logging.LogRecord("sxm", logging.WARNING, "x.py", 1, text, arguments, None)
    record.created, record.msecs = 1_000_000_000.25, 250.0
    return formatter.format(record)


def test_a_line_is_in_utc_and_has_the_migrations_id_once():
    formatter = log_lines.Formatter("mover", ID)
    line = written(formatter, "disk %s is %d %% there", "xvda", 5)
    assert re.match(r"2001-09-09T01:46:40\.250Z mover\[\d+\] WARNING %s: disk xvda" % ID, line)
    assert line.endswith("is 5 % there")
    assert written(formatter, "%s: begun", ID).count(ID) == 1
    assert written(log_lines.Formatter("hook"), "x").endswith("WARNING x")


def test_it_is_read_back():
    line = log_lines.read(written(log_lines.Formatter("worker", ID), "a [b] c"))
    assert line == ("2001-09-09T01:46:40.250Z", "worker", "WARNING", "%s: a [b] c" % ID)
    assert log_lines.read("Traceback (most recent call last):") is None
    assert log_lines.read("2026-11-01 10:00:00,123 worker %s: of before" % ID) is None
