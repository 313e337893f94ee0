# SPDX-License-Identifier: LGPL-2.1-only
"""Waiting for something that only asking can show: always with a bound."""

import concurrent.futures
import time
from typing import Callable, Iterable, List, Optional, TypeVar

from storage_motion.errors import TimedOut

TICK = 0.1
AT_ONCE = 8

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def at_once(
    work: Callable[[Item], Answer], items: Iterable[Item], most: int = AT_ONCE
) -> List[Answer]:
    """`work(item)` for all items, up to `most` of them at a time, in threads. The answers, in their
    order.

    All are tried; then the first error, in the order of the items, is raised."""
    items = list(items)
    with concurrent.futures.ThreadPoolExecutor(max(1, min(most, len(items)))) as pool:
        running = [pool.submit(work, item) for item in items]
    return [one.result() for one in running]


def until(
    ask: Callable[[], Optional[Answer]], timeout: float, what: str, tick: float = TICK
) -> Answer:
    """Ask until the answer is true (anything but None and False), at most `timeout` seconds, and
    return that answer.

    Raises TimedOut(what, seconds)."""
    end = time.monotonic() + timeout
    while True:
        answer = ask()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > end:
            raise TimedOut(what, "%g" % timeout)
        time.sleep(tick)
