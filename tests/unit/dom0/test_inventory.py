# SPDX-License-Identifier: LGPL-2.1-only
"""Who this host is."""

import pytest

from storage_motion.dom0 import inventory
from storage_motion.errors import BadInventory


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc/xensource-inventory"


def test_the_hosts_uuid(path):
    path.write_text("# a comment\nPRODUCT_NAME='XCP-ng'\nINSTALLATION_UUID='h-1'\n")
    assert inventory.host_uuid() == "h-1"


@pytest.mark.parametrize(
    "text, why",
    [
        (None, "xensource-inventory"),
        ("PRODUCT_NAME='XCP-ng'\n", "INSTALLATION_UUID"),
        ("INSTALLATION_UUID='h-1'\n\n", "Invalid line"),
        ("INSTALLATION_UUID = 'h-1'\n", "Invalid line"),
    ],
)
def test_one_that_does_not_tell_it(path, text, why):
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInventory) as caught:
        inventory.host_uuid()
    assert why in caught.value.failure()[1]
