# SPDX-License-Identifier: LGPL-2.1-only
"""Contestants take turns, and what came of it: medians with the least and the greatest, and ratios
to a peer of the same round.

A *sample* is a dict with at least "round" (an int), "scenario" and "contestant" (names).
"""

import collections
import statistics
import time

Spread = collections.namedtuple("Spread", "median least greatest")


ENOUGH = 2  # rounds


def turns(count, contestants, seconds=float("inf"), enough=ENOUGH):
    """(round, contestant), `count` rounds; each begins with another one, so that nobody always
    runs behind the same neighbour. On a slow machine fewer, but `enough`: none of those behind
    that begins later than `seconds` after the first."""
    contestants = list(contestants)
    latest = time.monotonic() + seconds
    for number in range(count):
        if number >= enough and time.monotonic() > latest:
            return
        first = number % len(contestants)
        for contestant in contestants[first:] + contestants[:first]:
            yield number, contestant


def spread(values):
    """The Spread of numbers; None of none."""
    values = [value for value in values if value is not None]
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def ratios(samples, base, value):
    """{contestant: Spread} of value(sample) / value(the sample of `base` in the same round).

    Paired by round, since the machine's speed drifts from one round to the next. A sample whose
    value is None (it did not end in its time) is left out.
    """
    bases = {sample["round"]: value(sample) for sample in samples if sample["contestant"] == base}
    found = collections.OrderedDict()
    for sample in samples:
        one, other = value(sample), bases.get(sample["round"])
        if one is not None and other:
            found.setdefault(sample["contestant"], []).append(one / other)
    return {name: spread(values) for name, values in found.items()}


def names(samples, key):
    """The different values of `key`, in the order of their first appearance."""
    return list(collections.OrderedDict.fromkeys(sample[key] for sample in samples))


def of(samples, **wanted):
    """The samples that have all the values that are `wanted`."""
    return [
        sample
        for sample in samples
        if all(sample.get(key) == value for key, value in wanted.items())
    ]
