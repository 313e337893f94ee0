# SPDX-License-Identifier: LGPL-2.1-only
"""The state file: each line on the disk, whole or passed over, and one process at a time."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from storage_motion.cli.evacuation import naming, state
from storage_motion.cli.evacuation.state import AlreadyEvacuating, StateError, StateFile


def test_what_is_noted_is_there_for_the_next_one(tmp_path):
    file = StateFile.open("it", str(tmp_path))
    file.note(event="asked", at=1.0)
    file.note(event="begun", at=2.0)
    file.close()
    assert [event["event"] for event in StateFile.open("it", str(tmp_path)).events] == [
        "asked",
        "begun",
    ]
    assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o600


def test_it_is_on_the_disk_before_anything_follows(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    file = StateFile.open("it", str(tmp_path))
    file.note(event="asked", at=1.0)
    assert os.path.getsize(file.path) == synced[-1] > 0 and len(synced) == 2, "its directory, too"
    file.note(event="begun", at=1.0)
    assert os.path.getsize(file.path) == synced[-1] and len(synced) == 3


def test_a_line_that_was_cut_is_passed_over_and_written_over(tmp_path):
    file = StateFile.open("it", str(tmp_path))
    file.note(event="asked", at=1.0)
    file.close()
    with open(file.path, "a") as stream:
        stream.write('{"event": "beg')
    file = StateFile.open("it", str(tmp_path))
    assert len(file.events) == 1
    file.note(event="begun", at=2.0)
    file.close()
    assert [one["event"] for one in StateFile.open("it", str(tmp_path)).events] == [
        "asked",
        "begun",
    ]


@pytest.mark.parametrize("line", ["not json\n", "[]\n", "{}\n", '{"event": 1}\n'])
def test_nothing_is_made_of_what_is_no_event(tmp_path, line):
    (tmp_path / "it.jsonl").write_text(line + '{"event": "begun", "at": 1}\n')
    with pytest.raises(StateError, match="line 1"):
        StateFile.open("it", str(tmp_path))


HOLDER = """
import sys
from storage_motion.cli.evacuation.state import StateFile
file = StateFile.open("it", sys.argv[1])
print("has it", flush=True)
sys.stdin.read()
"""


def test_one_process_has_it_until_it_ends_however_it_ends(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    )
    try:
        assert holder.stdout.readline() == b"has it\n"
        with pytest.raises(AlreadyEvacuating) as refused:
            StateFile.open("it", str(tmp_path))
        assert refused.value.details == ["it", str(holder.pid)]
        StateFile.open("another", str(tmp_path)).close()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate(timeout=20)
    StateFile.open("it", str(tmp_path)).close()


def test_what_has_ended_is_kept_under_another_name(tmp_path):
    for number in (1, 2):
        file = StateFile.open("it", str(tmp_path))
        assert file.put_away() is None or number == 2
        file.note(event="asked", at=1.0)
        file.note(event="begun", at=1.0)
        assert file.put_away() == str(tmp_path / ("it.%d.jsonl" % number))
        assert file.events == []
        file.close()


def test_a_plan_of_which_nothing_was_begun_is_not_kept(tmp_path):
    file = StateFile.open("it", str(tmp_path))
    file.note(event="asked", at=1.0)
    assert file.put_away() is None
    assert sorted(one.name for one in tmp_path.iterdir()) == ["it.lock"]


def test_a_disk_that_is_full_is_told(tmp_path, monkeypatch):
    file = StateFile.open("it", str(tmp_path))

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="No space left"):
        file.note(event="asked", at=1.0)


def test_where_it_is(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    assert state.directory() == "/somewhere/sxm/evacuations"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert state.directory() == "/home/me/.local/state/sxm/evacuations"


def test_the_same_command_has_the_same_name():
    one = naming.default("old array/1", {"to": ["x"], "from": "y"})
    assert one == naming.default("old array/1", {"from": "y", "to": ["x"]})
    assert one != naming.default("old array/1", {"from": "y", "to": ["z"]})
    assert one.startswith("old-array-1-")
    assert all(state.NAME.match(naming.default(title, {})) for title in ("..ähem", "x" * 300, ""))


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_a_name_leads_nowhere_else(tmp_path, name):
    with pytest.raises(StateError):
        StateFile.open(name, str(tmp_path))
