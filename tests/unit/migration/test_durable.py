# SPDX-License-Identifier: LGPL-2.1-only
"""What is kept is on disk, and is looked for afterwards; a xapi that goes back at any point."""

import pytest

from fake_pool import FakePool
from storage_motion.errors import NotDurable
from storage_motion.migration import durable


@pytest.fixture(autouse=True)
def syncing(monkeypatch):
    monkeypatch.setattr(durable.database, "sync", lambda session: session.sync())


def marked(*pools):
    return [
        "the mark in pool %s" % pool.name for pool in pools if not pool.tables["VM"]["v"]["mark"]
    ]


def make(*pools):
    for pool in pools:
        pool.tables["VM"]["v"]["mark"] = True


def pool_of(name):
    pool = FakePool(name)
    pool.tables["VM"] = {"v": {"mark": False}}
    pool.sync()
    return pool


def test_both_pools_have_it_whatever_comes_back():
    pools = [pool_of("A"), pool_of("B")]
    durable.keep(pools, lambda: make(*pools), lambda: marked(*pools), "the mark")
    for pool in pools:
        pool.goes_back()
        assert pool.tables["VM"]["v"]["mark"] and pool.syncs == 2


def test_one_pool_is_synced_once():
    pool = pool_of("A")
    durable.sync(pool, pool)
    assert pool.syncs == 2


def test_what_has_gone_back_before_the_sync_is_made_again(monkeypatch):
    pool = pool_of("A")
    crashes = [pool.goes_back]
    monkeypatch.setattr(
        durable.database,
        "sync",
        lambda session: (crashes.pop()() if crashes else None, session.sync()),
    )
    durable.keep([pool], lambda: make(pool), lambda: marked(pool), "the mark")
    pool.goes_back()
    assert pool.tables["VM"]["v"]["mark"]


def test_one_that_goes_back_again_and_again_is_not_trusted(monkeypatch):
    pool = pool_of("A")
    monkeypatch.setattr(
        durable.database, "sync", lambda session: (pool.goes_back(), session.sync())
    )
    with pytest.raises(NotDurable) as raised:
        durable.keep([pool], lambda: make(pool), lambda: marked(pool), "the mark")
    assert raised.value.details == ["the mark: xapi has forgotten it 3 times: the mark in pool A"]
