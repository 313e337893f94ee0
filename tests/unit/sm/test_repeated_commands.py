# SPDX-License-Identifier: LGPL-2.1-only
"""Commands of the storage manager whose xapi ends under them: asked again, so many times."""

import types

import pytest

from storage_motion.errors import SmFault
from storage_motion.sm import repeated_commands, smapi


class World:
    """A xapi, and a command that fails `faults` times with `fault`."""

    def __init__(self, monkeypatch, fault, faults):
        self.looked, self.asked, self.faults, self.fault = 0, [], faults, fault
        get = types.SimpleNamespace(get_by_uuid=self.look)
        self.session = types.SimpleNamespace(xenapi=types.SimpleNamespace(SR=get, VDI=get))
        monkeypatch.setattr(repeated_commands.smapi, "call", self.call)
        monkeypatch.setattr(
            repeated_commands, "time", types.SimpleNamespace(sleep=lambda seconds: None)
        )

    def look(self, uuid):
        self.looked += 1
        return "ref of " + uuid

    def call(self, session, sr, command, vdi_ref, args, timeout):
        self.asked.append((sr, command, vdi_ref, args, timeout))
        if len(self.asked) <= self.faults:
            raise SmFault(command, self.fault, "no")
        return "answer"


@pytest.mark.parametrize(
    "command, fault, faults, asked, answers",
    [
        ("vdi_mirror_stat", smapi.AWAY, 0, 1, True),
        ("vdi_mirror_stat", smapi.AWAY, 1, 2, True),
        (
            "vdi_mirror_stop",
            smapi.AWAY,
            repeated_commands.repeated.TRIES - 1,
            repeated_commands.repeated.TRIES,
            True,
        ),
        (
            "vdi_mirror_stop",
            smapi.AWAY,
            repeated_commands.repeated.TRIES,
            repeated_commands.repeated.TRIES,
            False,
        ),
        ("vdi_mirror_stat", 1200, 1, 1, False),
        ("vdi_mirror_stat", None, 1, 1, False),
        ("vdi_mirror_start", smapi.AWAY, 1, 1, False),
    ],
)
def test_it_is_asked_again_only_where_its_xapi_was_away_and_only_what_may_be(
    monkeypatch, command, fault, faults, asked, answers
):
    world = World(monkeypatch, fault, faults)
    if answers:
        assert repeated_commands.ask(world.session, "sr", command, "vdi", ("x",), 7) == "answer"
    else:
        with pytest.raises(SmFault):
            repeated_commands.ask(world.session, "sr", command, "vdi", ("x",), 7)
    assert world.asked == [("ref of sr", command, "ref of vdi", ("x",), 7)] * asked
    assert world.looked == 2 * asked, "a call before each waits until xapi is back"
