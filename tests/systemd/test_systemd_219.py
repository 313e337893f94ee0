# SPDX-License-Identifier: LGPL-2.1-only
"""What systemd 219 does not know, which is in the dom0 of XCP-ng 8.3: the lab refuses it, since the
systemd that is here does not."""

import os
import subprocess

import pytest

from lab.dom0 import systemd
from lab.dom0.units import keeper, states


@pytest.mark.parametrize(
    "option",
    [
        "--collect",
        "--property=Restart=on-abnormal",
        "--property=StandardOutput=append:/x",
        "--wait",
        "--pipe",
    ],
)
def test_what_219_does_not_know(tmp_path, option):
    systemd.install(str(tmp_path))
    done = subprocess.run(
        [str(tmp_path / "usr/bin/systemd-run"), "--quiet", "--unit=sxm-test", option, "/bin/true"],
        timeout=60,
    )
    assert done.returncode != 0 and states.loaded(str(tmp_path)) == {}


def test_a_host_that_is_not_booted_with_it(tmp_path):
    systemd.install(str(tmp_path))
    os.rmdir(str(tmp_path) + keeper.BOOTED)
    assert (
        subprocess.run([str(tmp_path / "usr/bin/systemctl"), "show", "x"], timeout=60).returncode
        != 0
    )
