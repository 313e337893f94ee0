# SPDX-License-Identifier: LGPL-2.1-only
"""How much of xapi's database is on this host's disk, and what this host notes of its gates
itself."""

import os

import pytest

from storage_motion.dom0 import gate_notes, state_db

BLOCK = "[%s]\nmode:no_limit\nformat:xml\ncompress:false\nis_on_remote_storage:%s\navailable_this_boot:true\n"  # noqa: E501
VDI = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    for directory in ("etc/xensource", "var/lib/xcp", "var/xapi", "mnt"):
        (tmp_path / directory).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    "configuration, files, generation",
    [
        (None, {}, -1),
        (None, {"var/lib/xcp/state.db.generation": "7"}, 7),
        (
            BLOCK % ("/var/xapi/state.db", "false"),
            {"var/lib/xcp/state.db.generation": "9", "var/xapi/state.db.generation": "7\n"},
            7,
        ),
        (
            BLOCK % ("/var/xapi/state.db", "false") + "\n" + BLOCK % ("/mnt/state.db", "true"),
            {"var/xapi/state.db.generation": "7", "mnt/state.db.generation": "9"},
            7,
        ),
        (
            BLOCK % ("/var/xapi/state.db", "false")
            + "\n"
            + BLOCK % ("/var/lib/xcp/state.db", "false"),
            {"var/xapi/state.db.generation": "7", "var/lib/xcp/state.db.generation": "8"},
            8,
        ),
        (BLOCK % ("/var/xapi/state.db", "false"), {"var/xapi/state.db.generation": ""}, -1),
        ("", {"var/lib/xcp/state.db.generation": "7"}, -1),
    ],
)
def test_the_generation_is_that_of_the_file_xapi_starts_with(
    root, configuration, files, generation
):
    if configuration is not None:
        (root / "etc/xensource/db.conf").write_text(configuration)
    for name, text in files.items():
        (root / name).write_text(text)
    assert state_db.generation() == generation


def test_what_is_noted_of_a_gate_stays_until_it_is_forgotten(root, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(
        os,
        "fsync",
        lambda descriptor: (
            synced.append(os.readlink("/proc/self/fd/%d" % descriptor)),
            real(descriptor),
        )[1],
    )
    assert not gate_notes.noted(VDI)
    gate_notes.forget(VDI)
    for _ in range(2):
        gate_notes.note(VDI)
    assert gate_notes.noted(VDI) and synced == [str(root / "var/lib/sxm")] * 2, (
        "the name itself is what is noted"
    )
    gate_notes.forget(VDI)
    assert not gate_notes.noted(VDI) and len(synced) == 3


def test_a_gate_that_cannot_be_noted_is_told(root, monkeypatch):
    monkeypatch.setattr(
        os, "open", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError):
        gate_notes.note(VDI)


@pytest.mark.parametrize("before", [False, True])
def test_what_cannot_be_synced_is_not_noted_unless_it_was_before(root, monkeypatch, before):
    if before:
        gate_notes.note(VDI)  # the gate may be open since
    monkeypatch.setattr(
        os, "fsync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    )
    with pytest.raises(OSError):
        gate_notes.note(VDI)
    assert gate_notes.noted(VDI) is before
