# SPDX-License-Identifier: LGPL-2.1-only
"""What a mover's status says of a mirror that has ended: by the move, or by the guest."""

import pytest

from storage_motion.journal import closing
from storage_motion.migration import mover_handle

ID = "11111111-2222-3333-4444-555555555555"


@pytest.mark.parametrize(
    "state, told, clean",
    [("ended", None, True), ("ended", "hard-reboot", False), ("mirroring", "hard-reboot", True)],
)
def test_a_mirror_that_the_guest_has_ended_has_not_ended_cleanly(
    tmp_path, monkeypatch, state, told, clean
):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))

    def request(path, message, timeout):
        if told:
            closing.note(ID, told)  # between the question and the answer
        return {"state": state, "clean": True}

    monkeypatch.setattr(mover_handle.control_socket, "request", request)
    assert mover_handle.MoverHandle(ID, "k", 0).status() == {"state": state, "clean": clean}
