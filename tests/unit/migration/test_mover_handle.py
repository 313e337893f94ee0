# SPDX-License-Identifier: LGPL-2.1-only
"""What a mover's status says of a mirror that has ended: by the move, or by the guest."""

import glob
import json
import os

import pytest

from storage_motion.dom0 import launch
from storage_motion.journal import closing, secret_files
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


def test_all_movers_of_the_host_find_what_each_says_of_its_share(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    specs, files = [], []

    class Process(object):
        def alive(self):
            return True

    def start(name, command):
        with open(command[-1]) as source:
            spec = json.load(source)
        specs.append(spec)
        for path in (spec["control"], spec["share"]["file"]):
            with open(path, "w"):
                pass
        files.append(spec["share"]["file"])
        return Process()

    monkeypatch.setattr(launch, "start", start)
    monkeypatch.setattr(
        mover_handle.control_socket, "request", lambda *_: {"state": "ready", "clean": False}
    )
    for migration, index in ((ID, 0), (ID, 1), (ID.replace("1", "9"), 0)):
        secret_files.keep(migration, "receiver", {})
        mover_handle.MoverHandle(migration, "k%d" % index, index).start(512)
    assert len(set(files)) == 3
    for spec in specs:
        assert sorted(glob.glob(spec["share"]["others"])) == sorted(files)
        assert os.path.dirname(spec["share"]["file"]) == os.path.dirname(spec["control"])
