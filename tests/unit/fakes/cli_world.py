# SPDX-License-Identifier: LGPL-2.1-only
"""What `sxm` sees: pools that it can log in to, their plugins, and a person who runs it without a
terminal, 80 columns wide."""

import contextlib
import io
import json
from typing import NamedTuple

import pytest

from fake_pool import failure, make_pool
from storage_motion.cli import main, pools
from storage_motion.errors import Unreachable


class Seen(NamedTuple):
    """What a run of `sxm` ended with, and what it wrote."""

    status: int
    out: str
    err: str

    @property
    def document(self):
        """What --json answered."""
        return json.loads(self.out)


class Sxm:
    """Runs `sxm`: `sxm("list", "--json")`. `pools`: {name: FakePool}; `answers`: {function: what
    the plugin answers, or function(arguments) that gives it}, by default of all pools; `asked`:
    [(pool's name, function, arguments)]."""

    def __init__(self, **pools_known):
        self.pools = pools_known
        self.answers = {}
        self.asked = []
        for name, pool in pools_known.items():
            pool.handlers["host.call_plugin"] = self._plugin_of(name)

    def _plugin_of(self, name):
        def call(host, plugin, function, arguments):
            self.asked.append((name, function, arguments))
            if function not in self.answers:
                raise failure("UNKNOWN_XENAPI_PLUGIN_FUNCTION", function)
            answer = self.answers[function]
            return json.dumps(answer(arguments) if callable(answer) else answer)

        return call

    def connect(self, one, tell, password_file=None, variable="SXM_PASSWORD"):
        """In place of pools.connect."""
        if one.name not in self.pools:
            raise Unreachable(one.url, "Connection refused")
        return pools.Pool(one, self.pools[one.name], "secret of %s" % one.name)

    def __call__(self, *words):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main.main(words)
        return Seen(status, out.getvalue(), err.getvalue())


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An administrator's machine on which nothing is configured, and no terminal."""
    for name in ("SXM_SERVER", "SXM_PASSWORD", "SXM_REMOTE_PASSWORD", "COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    (tmp_path / "sxm").mkdir()
    return tmp_path / "sxm"


@pytest.fixture
def sxm(home, monkeypatch):
    """With the pools `paris`, of p1 and p2 with a shared SR, and `lyon`, of l1: both are in the
    configuration, paris is the default."""
    (home / "pools.toml").write_text(
        'default = "paris"\n[pools.paris]\naddress = "10.0.0.1"\n'
        '[pools.lyon]\naddress = "10.1.0.1"\nuser = "admin"\n'
    )
    found = Sxm(paris=make_pool("paris", ["p1", "p2"], shared=True), lyon=make_pool("lyon", ["l1"]))
    monkeypatch.setattr(pools, "connect", found.connect)
    return found
