# SPDX-License-Identifier: LGPL-2.1-only
"""Each code says whether it is tried again, and what to do."""

import inspect

import pytest

from storage_motion import errors
from storage_motion.api import dead_worker
from storage_motion.cli.evacuation import codes
from storage_motion.cli.evacuation.codes import NEVER, QUEUE, RETRY


def test_each_code_of_the_product_is_in_the_table():
    known = {
        one.code
        for _, one in inspect.getmembers(errors, inspect.isclass)
        if issubclass(one, errors.MotionError)
    }
    assert known | {"SXM_INTERNAL"} == set(codes.CODES)
    for code in list(codes.CODES.values()) + list(codes.XAPI.values()):
        assert code.do and code.where and code.again in (NEVER, RETRY, QUEUE)


@pytest.mark.parametrize(
    "error, again",
    [
        (["SXM_CONNECTION_LOST", "x"], RETRY),
        (["SXM_MOVE_FAILED", "x"], NEVER),
        (["SXM_REFUSED", "host", "TOO_MANY_STORAGE_MIGRATES 3", "wait"], QUEUE),
        (["SXM_REFUSED", "host", "HOST_NOT_ENOUGH_FREE_MEMORY 1 2", "free some"], NEVER),
        (["SXM_REFUSED", "host"], NEVER),
        (["OTHER_OPERATION_IN_PROGRESS", "SR", "x"], QUEUE),
        (["WHAT_NOBODY_KNOWS"], NEVER),
        ([], NEVER),
        (["SXM_WORKER_DIED", "m", "sync"], RETRY),
        (["SXM_WORKER_DIED", "m", "sync", dead_worker.NOBODY], NEVER),
    ],
)
def test_whether_it_is_tried_again(error, again):
    assert codes.of(error).again == again


def test_the_words_are_those_of_the_plugin():
    """What is looked for in its refusals stands in its source."""
    from storage_motion.migration import xenopsd_leftovers
    from storage_motion.migration.phases import cleanup
    from storage_motion.plan import checks, disk_goals, room

    def says(module, text):
        return text in inspect.getsource(module)

    assert says(disk_goals, codes.THERE) and says(room, codes.ROOM)
    assert all(says(checks, text) for text in codes.MOVING)
    assert says(xenopsd_leftovers, codes.DOUBTS[0]) and says(cleanup, codes.DOUBTS[1])
