# SPDX-License-Identifier: LGPL-2.1-only
"""How many requests a tapdisk is given at a time."""

import pytest

from storage_motion.dom0 import blktap


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "etc/sxm").mkdir(parents=True)
    return tmp_path


def rpm(host, script):
    (host / "usr/bin/rpm").write_text("#!/bin/sh\n" + script)
    (host / "usr/bin/rpm").chmod(0o755)


def known(host, *versions):
    (host / "etc/sxm/qcow2-blktap").write_text("".join("%s\n" % version for version in versions))


def test_as_released_one_for_qcow2_and_eight_for_others(host):
    rpm(host, "printf 3.55.5-6.7.xcpng8.3")
    assert [blktap.most_requests(kind) for kind in ("qcow2", "vhd", "aio")] == [1, 8, 8]
    assert blktap.version() == "3.55.5-6.7.xcpng8.3"


def test_six_where_the_administrator_knows_this_very_version(host):
    rpm(host, "[ \"$*\" = '-q --qf %{VERSION}-%{RELEASE} blktap' ] && printf 3.55.5-6.8.xcpng8.3")
    known(host, "3.55.5-6.7.xcpng8.3", "3.55.5-6.8.xcpng8.3")
    assert blktap.most_requests("qcow2") == 6
    known(host, "3.55.5-6.8.xcpng8.30", "")
    assert blktap.most_requests("qcow2") == 1


@pytest.mark.parametrize(
    "script", ["echo 'package blktap is not installed'; exit 1", "exit 0", None, "sleep 60"]
)
def test_a_version_that_cannot_be_told_is_not_safe(host, script, monkeypatch):
    monkeypatch.setattr(blktap, "RPM_TIMEOUT", 1.0)
    if script is not None:
        rpm(host, script.replace("sleep", "exec sleep"))
    known(host, "", "None")
    assert blktap.version() is None and blktap.most_requests("qcow2") == 1


def test_four_connections_stay_below_the_slots_of_an_image():
    assert 4 * blktap.MOST_QCOW2 <= 30
