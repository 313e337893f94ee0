# SPDX-License-Identifier: LGPL-2.1-only
"""What a look at the movers finds out before the VM is moved; the rest with phase sync, in
phases/test_sync.py."""

import contextlib
import types

import pytest

from fake_clock import Clock
from fake_migration import make_plan
from storage_motion.errors import MirrorBroken
from storage_motion.migration import mirror_health


@pytest.mark.parametrize(
    "waits, looks",
    [
        ([0.0], 1),
        ([2.0, 3.0, 0.2], 3),
        ([0.4, 0.4], 1),  # a write that waits is waited for, ...
        ([2.0] * 1000, None),  # ... but not for ever: slow is not silent
        ([2.0, 4.0, "broken"], 3),
    ],
)
def test_what_has_fallen_silent_is_found_out_before_the_guest_is_suspended(
    monkeypatch, waits, looks
):
    seen, clock = [], Clock()

    def watch(m):
        wait = waits[len(seen)]
        seen.append(wait)
        if wait == "broken":
            raise MirrorBroken("k", "silence")
        return {"k": {"oldest_wait": wait}, "l": {"oldest_wait": 0.0}}

    monkeypatch.setattr(mirror_health, "watch", watch)
    monkeypatch.setattr(mirror_health, "time", clock)
    with pytest.raises(MirrorBroken) if "broken" in waits else contextlib.ExitStack():
        mirror_health.await_answers(types.SimpleNamespace(pulse=lambda: None))
    assert (
        len(seen) == looks
        or looks is None
        and clock.now == pytest.approx(2 * mirror_health.STALL_BOUND, abs=mirror_health.POLL)
    )


class Movers:
    """A migration of a guest that is about to close its disks: one of a snapshot, `s`, one that is
    not plugged, `u`, and one that the VM has, `k`. `movers`: the keys of those that have one."""

    def __init__(self, movers):
        one = make_plan().disks[0]
        self.plan = make_plan(
            disks=[one, one._replace(key="u", unplugged=True)],
            history=[one._replace(key="s", snapshot="t")],
        )
        self.entry = {"disks": {key: {"mover": key in movers} for key in "ksu"}}
        self.progress = types.SimpleNamespace(take=lambda key, status: None)

    def guest_closes(self):
        return "hard-reboot"

    def mover(self, key):
        return types.SimpleNamespace(status=lambda: {"state": "ready"})


def test_a_guest_that_reboots_closes_no_disk_but_its_own():
    assert sorted(mirror_health.watch(Movers("su"))) == ["s", "u"]
    with pytest.raises(MirrorBroken) as broken:
        mirror_health.watch(Movers("sk"))
    assert broken.value.failure()[1] == "k"
