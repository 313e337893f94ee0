# SPDX-License-Identifier: LGPL-2.1-only
"""Finding a migration on the host that has it, and listing those of all hosts."""

import json
import os

import pytest

from api_world import begin, pool  # noqa: F401
from fake_migration import ID
from fake_pool import failure
from storage_motion.api import commands, lookup, status
from storage_motion.errors import NoSuchMigration
from storage_motion.journal.journal import Journal


def test_it_is_found_on_the_host_that_has_it(pool):
    asked = []

    def call_plugin(host, plugin, function, given):
        asked.append((pool.tables["host"][host]["name_label"], plugin, function, given))
        return json.dumps({"state": "running"})

    pool.handlers["host.call_plugin"] = call_plugin
    assert commands.status_of(pool, {"migration": ID}) == {"state": "running"}
    assert asked == [("a2", "sxm.py", "status", {"migration": ID, "local": "true"})]
    with pytest.raises(NoSuchMigration):
        commands.status_of(pool, {"migration": ID, "local": "true"})


def test_nobody_has_it(pool):
    def call_plugin(*_):
        raise failure("SXM_NO_SUCH_MIGRATION", ID)

    pool.handlers["host.call_plugin"] = call_plugin
    with pytest.raises(NoSuchMigration):
        commands.status_of(pool, {"migration": ID})


def test_a_list_of_all_hosts(pool):
    begin()
    pool.handlers["host.call_plugin"] = lambda *_: json.dumps(
        {"migrations": [dict(status.brief(Journal.load(ID).entry), started=0)]}
    )
    assert len(lookup.list_all(pool, {})["migrations"]) == 2
    assert len(lookup.list_all(pool, {"local": "true"})["migrations"]) == 1


def test_a_journal_that_is_damaged_hides_no_other(pool):
    begin()
    other = "99999999-2222-3333-4444-555555555555"
    with open(os.path.join(os.path.dirname(Journal.load(ID).path), other + ".json"), "w") as out:
        out.write('{"version": 1, "migration": "%s", "state": "running"}' % other)
    answer = lookup.list_all(pool, {"local": "true"})
    assert [entry["migration"] for entry in answer["migrations"]] == [ID]
    assert [failure[0] for failure in answer["unreadable"]] == ["SXM_JOURNAL"]
