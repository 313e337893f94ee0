# SPDX-License-Identifier: LGPL-2.1-only
"""A VM goes each way, whatever of them is refused."""

from storage_motion.cli.selftest import ways


def go(at, untried, refused=()):
    """The ways that were tried in their order, and those that were not reached."""
    tried, held, untried = [], [], list(untried)
    while untried:
        to = ways.next_stop(at, untried, held)
        if to is None:
            break
        tried.append((at, to))
        assert len(tried) < 100
        untried = [way for way in untried if way != (at, to)]
        if (at, to) not in refused:
            held.append((at, to))
            at = to
    return tried, untried


def test_each_way_between_all_places_is_gone():
    known = ways.all_of("abc", "xy")
    assert len(known) == len(set(known)) == 3 * 2 + 2 * 3 * 2
    assert not any(set(way) == {"x", "y"} for way in known)
    tried, missed = go("a", known)
    assert missed == [] and set(tried) == set(known)


def test_a_way_that_is_refused_costs_that_one_only():
    known = ways.all_of("abc", "")
    tried, missed = go("a", known, refused={("a", "b")})
    assert missed == [] and set(tried) == set(known)


def test_what_cannot_be_reached_is_told():
    known = ways.all_of("ab", "")
    assert go("a", known, refused={("a", "b")}) == ([("a", "b")], [("b", "a")])


def test_short_is_out_and_back():
    assert ways.short_out("abc", "xy") == [("a", "b"), ("b", "x")]
    assert ways.short_back("abc", "xy") == [("x", "b"), ("b", "a")]
    assert ways.short_out("a", "x") == [("a", "x")]


def test_home_is_found_by_ways_that_held():
    held = [("a", "b"), ("b", "c"), ("c", "a")]
    assert ways.towards("b", {"a"}, held) == "c"
    assert ways.towards("b", {"z"}, held) is None
