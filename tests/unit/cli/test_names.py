# SPDX-License-Identifier: LGPL-2.1-only
"""A thing is called by its name or UUID; what is unknown or ambiguous is refused with those that
may have been meant."""

import pytest
import XenAPI

from fake_pool import add_sr, add_vdi, add_vm, by_name, make_pool
from storage_motion.cli import names
from storage_motion.cli.failures import AmbiguousName, UnknownName
from storage_motion.cli.pools import Known, Pool


@pytest.fixture
def fake():
    found = make_pool("A", ["a1", "a2"], shared=True)
    home, sr = by_name(found, "host", "a1"), by_name(found, "SR", "a1-sr")
    guests = by_name(found, "network", "guests")
    disks = [add_vdi(found, sr, name_label="root"), add_vdi(found, sr, name_label="data")]
    add_vm(found, home, disks, guests)
    for host in ("a1", "a2"):
        add_sr(found, "Local storage", [by_name(found, "host", host)])
    return found


@pytest.fixture
def pool(fake):
    return Pool(Known("A", "10.0.0.1"), fake, "")


def test_by_name_and_by_uuid_in_any_case(fake, pool):
    vm = names.vm(pool, "web")
    assert names.vm(pool, vm.uuid.upper()) == vm and vm.record["power_state"] == "Running"
    assert names.host(pool, "a2").ref == by_name(fake, "host", "a2")
    assert names.network(pool, "xenbr0").name == "management"


def test_a_template_is_no_vm(fake, pool):
    fake.tables["VM"][by_name(fake, "VM", "web")]["is_a_template"] = True
    with pytest.raises(UnknownName):
        names.vm(pool, "web")


@pytest.mark.parametrize("called", ["xvdb", "1", "data"])
def test_a_disk_also_by_its_device(fake, pool, called):
    assert names.disk(pool, names.vm(pool, "web"), called).name == "data"


@pytest.mark.parametrize("called", ["0", "aa:bb:cc:00:00:01", "AA:BB:CC:00:00:01".lower()])
def test_an_interface_also_by_its_device(fake, pool, called):
    assert names.vif(pool, names.vm(pool, "web"), called).device == "0"


def test_an_ambiguous_name_is_refused_with_what_tells_them_apart(fake, pool):
    with pytest.raises(AmbiguousName) as raised:
        names.sr(pool, "Local storage")
    first, one, other = raised.value.details
    assert first == "2 SRs are called 'Local storage'"
    assert "ext on a1" in one and "ext on a2" in other
    assert one.split()[0] in [record["uuid"] for record in fake.tables["SR"].values()]


def test_an_sr_of_a_host(fake, pool):
    on_a2 = names.sr(pool, "a2/Local storage")
    assert names.sr(pool, "Local storage", names.host(pool, "a2")) == on_a2
    assert names.sr(pool, "a1/Local storage") != on_a2
    with pytest.raises(UnknownName):
        names.sr(pool, "a1-sr", names.host(pool, "a2"))


@pytest.mark.parametrize("called", ["WEB", "wbe", "we b"])
def test_an_unknown_one_is_refused_with_near_ones(fake, pool, called):
    with pytest.raises(UnknownName) as raised:
        names.vm(pool, called)
    assert raised.value.details[0] == "there is no VM %r; did you mean" % called
    assert raised.value.details[1].endswith("web  Running on a1")


def test_where_there_are_few_they_are_told(fake, pool):
    with pytest.raises(UnknownName) as raised:
        names.disk(pool, names.vm(pool, "web"), "nothing like it")
    assert raised.value.details[0] == "there is no disk 'nothing like it' of VM web"
    assert [one.rpartition("  ")[2] for one in raised.value.details[1:]] == [
        "xvda, 1.0 GiB",
        "xvdb, 1.0 GiB",
    ]


MIGRATIONS = [
    {"migration": "11111111-a", "vm": "v1", "vm_name": "web", "state": "failed", "started": 3},
    {"migration": "11112222-b", "vm": "v1", "vm_name": "web", "state": "running", "started": 2},
    {"migration": "33333333-c", "vm": "v2", "vm_name": "db", "state": "succeeded", "started": 1},
    {"migration": "44444444-d", "vm": "v3", "vm_name": "db", "state": "succeeded", "started": 0},
]


@pytest.mark.parametrize(
    "called, found",
    [("vm=web", "11112222-b"), ("v2", "33333333-c"), ("3333", "33333333-c"), ("11111111-a",) * 2],
)
def test_a_migration(monkeypatch, pool, called, found):
    monkeypatch.setattr(pool, "plugin", lambda _: {"migrations": MIGRATIONS, "unreadable": []})
    assert names.migration(pool, called)["migration"] == found


@pytest.mark.parametrize(
    "called, error", [("db", AmbiguousName), ("1111", AmbiguousName), ("x", UnknownName)]
)
def test_a_migration_that_is_not_clear(monkeypatch, pool, called, error):
    monkeypatch.setattr(pool, "plugin", lambda _: {"migrations": MIGRATIONS, "unreadable": []})
    with pytest.raises(error) as raised:
        names.migration(pool, called)
    assert len(raised.value.details) >= 2


@pytest.mark.parametrize("called", ["v2", "nobody"])
def test_one_whose_journal_is_torn_may_be_meant(monkeypatch, pool, called):
    torn = {"migrations": MIGRATIONS, "unreadable": [["SXM_JOURNAL", "/x", "torn"]]}
    monkeypatch.setattr(pool, "plugin", lambda _: torn)
    with pytest.raises(XenAPI.Failure, match="SXM_JOURNAL"):
        names.migration(pool, called)
    assert names.migration(pool, "web")["migration"] == "11112222-b"
