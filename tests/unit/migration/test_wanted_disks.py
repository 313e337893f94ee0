# SPDX-License-Identifier: LGPL-2.1-only
"""What a source asks for is checked before anything is made."""

import json

import pytest
from hypothesis import given, settings, strategies as st

from fake_destination import KEYS, nothing_left, receive_renew
from storage_motion.errors import BadArguments
from storage_motion.migration import wanted_disks


@pytest.mark.parametrize("keys", [[], ["x"], "x", None, [KEYS[0], 1], {KEYS[0]: 1}])
def test_only_disks_of_the_migration_are_renewed(destination, keys):
    destination.receive()
    with pytest.raises(BadArguments):
        receive_renew(destination, keys)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 0},
        {"size": 513},
        {"size": -512},
        {"size": "512"},
        {"size": True},
        {"sr": "x"},
        {"image_format": "raw"},
        {"image_format": 1},
        {"target": "../x"},
        {"base_there": "x"},
        {"base_there": KEYS[0], "target": KEYS[1]},
        {"base_there": KEYS[0], "base": KEYS[1]},
        {"other_config": {"a": 1}},
        {"other_config": []},
        {"name_label": None},
        {"sharable": "no"},
        {"tags": "gold"},
        {"tags": [1]},
        {"allow_caching": "yes"},
    ],
)
def test_what_is_asked_for_wrongly(destination, tmp_path, changes):
    with pytest.raises(BadArguments):
        destination.receive(destination.wanted(**changes))
    assert nothing_left(destination, tmp_path)


@pytest.mark.parametrize("text", ["", "x", "{}", '"x"', "[1]", '["x"]', "[null]"])
def test_what_are_no_uuids(text):
    with pytest.raises(BadArguments):
        wanted_disks.uuids(text)
    assert wanted_disks.uuids(json.dumps(KEYS)) == list(KEYS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([name for name, _ in wanted_disks.FIELDS]), inner)
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=50), JSON.map(json.dumps)))
def test_any_text_for_disks(text):
    with pytest.raises(BadArguments):
        wanted_disks.read(text)
