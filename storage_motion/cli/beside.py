# SPDX-License-Identifier: LGPL-2.1-only
"""Calls of pools side by side. Each is made by a thread that nobody waits for at the end: one that
does not answer holds up neither the others, nor Ctrl-C, nor the end of the command."""

import collections
import queue
import threading
from typing import Any, Callable, Dict, Hashable, Iterator, NamedTuple, Optional, Sequence, TypeVar

Item = TypeVar("Item")


class Bounds(NamedTuple):
    """How many calls may be under way: at any one place, such as a host, and in all."""

    place: int
    all: int


class Ended(NamedTuple):
    """A call that has ended. `number`: of its item, from 0; `answer`: what the call gave; `error`:
    what it raised, else None."""

    number: int
    answer: Any
    error: Optional[Exception] = None


def as_they_end(
    work: Callable[[Item], Any],
    items: Sequence[Item],
    place: Callable[[Item], Hashable],
    bounds: Bounds,
    every: Optional[float] = None,
) -> Iterator[Optional[Ended]]:
    """What became of `work(item)` of each item, in the order in which they end. They begin in the
    order of `items`, but one whose place is busy keeps nobody else waiting. `every`: after so many
    seconds in which none has ended None is given.

    Of whoever stops to ask for more, as by Ctrl-C, none is begun any more."""
    ended: "queue.SimpleQueue[Ended]" = queue.SimpleQueue()

    def run(number: int, item: Item) -> None:
        try:
            ended.put(Ended(number, work(item)))
        except Exception as error:
            ended.put(Ended(number, None, error))

    waiting = list(enumerate(items))
    busy: Dict[Hashable, int] = collections.Counter()
    while waiting or sum(busy.values()):
        for one in list(waiting):
            if sum(busy.values()) < bounds.all and busy[place(one[1])] < bounds.place:
                waiting.remove(one)
                busy[place(one[1])] += 1
                threading.Thread(target=run, args=one, daemon=True).start()
        try:
            found = ended.get(timeout=every)
        except queue.Empty:
            yield None
            continue
        busy[place(items[found.number])] -= 1
        yield found
