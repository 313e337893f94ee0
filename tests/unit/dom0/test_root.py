# SPDX-License-Identifier: LGPL-2.1-only
"""What is private is made so, and stays so."""

import os
import stat

from storage_motion.dom0 import root


def mode(path):
    return oct(stat.S_IMODE(os.stat(str(path)).st_mode))


def test_private(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    (tmp_path / "var/lib/sxm").mkdir(parents=True)
    (tmp_path / "var/lib/sxm").chmod(0o755)
    for name in ("/var/lib/sxm", "/run/sxm"):
        assert mode(root.private_directory(name)) == oct(0o700)
    assert mode(root.private_file("/var/log/sxm.log")) == oct(0o600)
    (tmp_path / "var/log/sxm.log").write_text("kept")
    (tmp_path / "var/log/sxm.log").chmod(0o644)
    assert (
        mode(root.private_file("/var/log/sxm.log")) == oct(0o600)
        and (tmp_path / "var/log/sxm.log").read_text() == "kept"
    )
