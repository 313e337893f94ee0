# SPDX-License-Identifier: LGPL-2.1-only
"""What xenopsd knew of a VM: for root alone, and gone with the migration."""

import os
import stat

import pytest

from storage_motion.dom0 import root
from storage_motion.errors import JournalNotWritten
from storage_motion.journal import journal, xenopsd_export

ID = "11111111-2222-3333-4444-555555555555"


def test_it_is_kept_for_root_alone_and_hides_in_no_list(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    assert xenopsd_export.get(ID) is None
    xenopsd_export.forget(ID)
    for text in ('{"vm": 1}', '{"vm": 2}'):
        xenopsd_export.keep(ID, text)
        assert xenopsd_export.get(ID) == text
    directory = root.path(journal.DIRECTORY)
    (name,) = os.listdir(directory)
    assert stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode) == 0o600
    assert journal.all_ids() == [] and journal.all_ids(journal.RECEIVING) == []
    xenopsd_export.forget(ID)
    assert os.listdir(directory) == []


def test_what_cannot_be_kept_stops_the_migration(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    xenopsd_export.keep(ID, "former")

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xenopsd_export.journal, "replace", full)
    with pytest.raises(JournalNotWritten, match="No space left"):
        xenopsd_export.keep(ID, "new")
    assert xenopsd_export.get(ID) == "former"
