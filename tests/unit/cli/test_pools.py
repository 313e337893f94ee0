# SPDX-License-Identifier: LGPL-2.1-only
"""Which pool is meant, by the configuration."""

import pytest

from storage_motion.cli import pools
from storage_motion.cli.failures import BadConfiguration, NotUnderstood

GOOD = """
default = "lyon"
[pools.paris]
address = "10.0.0.1"
[pools.lyon]
address = "10.1.0.1:8443"
user = "admin"
password_file = "~/x"
"""


def test_by_name_by_address_or_the_default(home):
    (home / "pools.toml").write_text(GOOD)
    lyon = pools.Known("lyon", "10.1.0.1:8443", "admin", "~/x")
    assert pools.known("lyon") == pools.known(None) == lyon
    assert lyon.url == "https://10.1.0.1:8443"
    assert pools.known("lyon", "me").user == "me"
    assert pools.known("paris") == pools.Known("paris", "10.0.0.1", "root", None)
    assert pools.known("10.9.9.9") == pools.Known("10.9.9.9", "10.9.9.9")


def test_the_only_one_needs_no_default(home):
    (home / "pools.toml").write_text('[pools.paris]\naddress = "10.0.0.1"\n')
    assert pools.known(None).name == "paris"


def test_none_is_meant(home):
    with pytest.raises(NotUnderstood, match="which pool"):
        pools.known(None)
    (home / "pools.toml").write_text(GOOD.replace('default = "lyon"', ""))
    with pytest.raises(NotUnderstood, match="lyon, paris"):
        pools.known(None)


def test_all_that_is_wrong_in_the_file_is_named(home):
    (home / "pools.toml").write_text(
        'defualt = "a"\n[pools.a]\nuser = 1\n[pools.b]\naddress = "x"\npassword = "hush"\n'
    )
    with pytest.raises(BadConfiguration) as raised:
        pools.known("a")
    assert raised.value.details[1:] == [
        "defualt: not known",
        "pools.a.user: not a string",
        "pools.a.address: missing",
        "pools.b.password: not known; password_file names a file that has it",
    ]
    assert "hush" not in str(raised.value)
    (home / "pools.toml").write_text("[pools")
    with pytest.raises(BadConfiguration):
        pools.known("a")


def test_an_address_that_is_none(home):
    with pytest.raises(NotUnderstood, match="http"):
        _ = pools.known("http://10.0.0.1").url
