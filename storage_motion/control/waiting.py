"""Waiting for something that only asking can show: always with a bound."""
import time

from storage_motion.errors import TimedOut

TICK = 0.1


def until(ask, timeout, what, tick=TICK):
    """Ask until the answer is true (anything but None and False), at most `timeout` seconds, and return that answer.

    Raises TimedOut(what, seconds)."""
    end = time.monotonic() + timeout
    while True:
        answer = ask()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > end:
            raise TimedOut(what, "%g" % timeout)
        time.sleep(tick)
