# SPDX-License-Identifier: LGPL-2.1-only
"""Threads in a row, with bounded queues between them, that end together: when all is done, or when
one has failed."""

import collections
import threading
from typing import Any, Callable, Iterable, Optional

END = object()  # what a stage hands on after its last item


class Stopped(Exception):
    """Raised in a stage that waits on a queue when another stage has failed, or the pipeline was
    stopped."""


class Pipeline(object):
    """A set of stages, each a function in a thread of its own, and their queues."""

    def __init__(self) -> None:
        # the first exception of a stage, or what `stop` was given
        self.error: Optional[Exception] = None
        self._condition = threading.Condition()
        self._stopped = False

    def queue(self, capacity: int) -> "Queue":
        """A Queue of this pipeline for at most `capacity` items."""
        return Queue(self, capacity)

    def run(self, stages: Iterable[Callable[[], None]], interrupt: Callable[[], None]) -> None:
        """Run `stages` (functions without arguments) to their ends. `interrupt()` has to wake a
        stage that waits on anything but a queue.

        Raises the first exception of a stage, when all of them have ended.
        """
        threads = [
            threading.Thread(
                target=self._run_stage, args=(stage, interrupt), name=stage.__name__, daemon=True
            )
            for stage in stages
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.error is not None:
            raise self.error

    def stop(self, error: Exception) -> None:
        """End all stages with `error` (an exception), unless one failed before."""
        with self._condition:
            if self.error is None:
                self.error = error
            self._stopped = True
            self._condition.notify_all()

    def _run_stage(self, stage: Callable[[], None], interrupt: Callable[[], None]) -> None:
        try:
            stage()
        except Stopped:
            pass  # another stage has said why
        except Exception as error:
            self.stop(error)
            interrupt()


class Queue(object):
    """Items from one stage to the next, in order."""

    def __init__(self, pipeline: Pipeline, capacity: int) -> None:
        self._pipeline = pipeline
        self._condition = pipeline._condition
        self._capacity = capacity
        self._items: "collections.deque[Any]" = collections.deque()

    def put(self, item: Any) -> None:
        """Append `item`, waiting for room. Raises Stopped."""
        with self._condition:
            self._condition.wait_for(
                lambda: self._pipeline._stopped or len(self._items) < self._capacity
            )
            if self._pipeline._stopped:
                raise Stopped()
            self._items.append(item)
            self._condition.notify_all()

    def get(self, wait: bool = True) -> Any:
        """The next item, waiting for one; or, with `wait` false, None where there is none. Raises
        Stopped."""
        with self._condition:
            if wait:
                self._condition.wait_for(lambda: self._pipeline._stopped or self._items)
            if self._pipeline._stopped:
                raise Stopped()
            if not self._items:
                return None
            item = self._items.popleft()
            self._condition.notify_all()
            return item
