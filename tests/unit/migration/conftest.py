# SPDX-License-Identifier: LGPL-2.1-only
"""What the tests of the destination's part share."""

import pytest

from fake_destination import Destination
from storage_motion.dom0 import launch
from storage_motion.migration import receivers


@pytest.fixture
def destination(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    # The receiver is this very process: it must not be told to go.
    monkeypatch.setattr(receivers, "_stop_one", lambda process, control, command: None)
    monkeypatch.setattr(launch.Process, "stop", lambda process, timeout=None: None)
    return Destination(monkeypatch)
