# SPDX-License-Identifier: LGPL-2.1-only
"""In which order a VM goes all ways between places: a place is any value, a way a pair of them."""

from typing import Dict, Hashable, List, Optional, Sequence, Set, Tuple, TypeVar

Place = TypeVar("Place", bound=Hashable)


def all_of(here: Sequence[Place], there: Sequence[Place]) -> List[Tuple[Place, Place]]:
    """Each pair of places of this pool, and each of one of it and one of the other; both ways."""
    found = [(one, other) for one in here for other in here if one != other]
    for one in here:
        for other in there:
            found += [(one, other), (other, one)]
    return found


def short_out(here: Sequence[Place], there: Sequence[Place]) -> List[Tuple[Place, Place]]:
    """To the second place of this pool, if there is one, and on to the first of the other one."""
    stops = list(here[:2]) + list(there[:1])
    return list(zip(stops, stops[1:]))


def short_back(here: Sequence[Place], there: Sequence[Place]) -> List[Tuple[Place, Place]]:
    """The same, back."""
    return [(to, start) for start, to in reversed(short_out(here, there))]


def next_stop(
    at: Place, untried: Sequence[Tuple[Place, Place]], held: Sequence[Tuple[Place, Place]]
) -> Optional[Place]:
    """Where to go from `at`: by a way that was not tried yet, else by those that held towards one.
    None: nothing more can be tried."""
    for start, to in untried:
        if start == at:
            return to
    return towards(at, {start for start, _ in untried}, held)


def towards(at: Place, goals: Set[Place], held: Sequence[Tuple[Place, Place]]) -> Optional[Place]:
    """The first stop on the shortest way from `at` to one of `goals`, by ways that held; None
    without one."""
    first: Dict[Place, Place] = {to: to for start, to in held if start == at}
    edge = list(first)
    while edge:
        for place in edge:
            if place in goals:
                return first[place]
        further = []
        for start, to in held:
            if start in edge and to not in first and to != at:
                first[to] = first[start]
                further.append(to)
        edge = further
    return None
