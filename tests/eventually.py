# SPDX-License-Identifier: LGPL-2.1-only
"""How a test waits: for what it needs to see, and with a bound; never for as long as that probably
takes."""

# by their names, for a test may put another clock in the place of time's
from time import monotonic, sleep

POLL = 0.02
"""Seconds between two looks. Who looks at something costly, or at something that passes quickly,
says so."""


def eventually(condition, what, timeout=60, seen=None, poll=POLL):
    """Wait until `condition()` is true; its value then.

    Fails after `timeout` seconds: with `what` was waited for and, if given, with what `seen()` is
    by then. What `condition` raises is not caught: so it ends a wait that has become vain."""
    end = monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if monotonic() > end:
            found = "" if seen is None else ": %s" % (seen(),)
            raise AssertionError("not within %g s: %s%s" % (timeout, what, found))
        sleep(poll)


def never(condition, what, seconds, poll=POLL):
    """Look for `seconds`, and at their end, whether `condition()` is true. Fails, with `what` that
    would be, as soon as it is."""
    end = monotonic() + seconds
    while True:
        value = condition()
        if value:
            raise AssertionError("%s: %r" % (what, value))
        left = end - monotonic()
        if left <= 0:
            return
        sleep(min(poll, left))
