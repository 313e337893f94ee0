# SPDX-License-Identifier: LGPL-2.1-only
"""The plugin's arguments, and what the planner makes of them and of whatever the pools' records
say."""

import copy
import json

import pytest
from hypothesis import given, strategies as st

import fuzz_bounds
from fake_pool import GIB, NULL, add_vdi, add_vm, by_name, make_pool, uuid_of
from fuzz_bounds import EACH
from storage_motion.api import arguments
from storage_motion.api.arguments import Problems
from storage_motion.errors import BadArguments, NoSuchMigration
from storage_motion.journal import journal
from storage_motion.journal.journal import Journal
from storage_motion.migration import wanted_disks
from storage_motion.plan import planner
from storage_motion.plan.plan import Plan
from storage_motion.uuids import UUID
from storage_motion.xapi.records import Records

SECRET = "hush-hush-7d1f"
NAMES = [
    "vm",
    "uuid",
    "live",
    "host",
    "host-uuid",
    "remote-master",
    "remote-username",
    "remote-network",
    "destination-sr-uuid",
    "force",
    "wait",
    "dry-run",
    "problems",
    "retry-limit",
    "cbt",
    "copy",
    "compress",
    "vgpu:x",
    "vdi:",
    "vif:",
    "vdi",
    "args",
]
UUIDS = st.uuids(version=4).map(str)
ODD = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "",
            " ",
            "\0",
            "OpaqueRef:NULL",
            "../../etc/passwd",
            "-1",
            "1e9",
            "9" * 5000,
            "x" * 2000,
            "https://[::1",
            "http://a:b@c/",
            "[fe80::1%eth0]:443",
            "10.0.0.1:99999",
            "\ud800",
        ]
    ),
)
JUNK = st.one_of(
    ODD, st.none(), st.integers(), st.lists(st.integers(), max_size=2), st.binary(max_size=4)
)


class World:
    """Pool A with a VM of two disks on a1, and pool B; made once, since nothing may change it."""

    def __init__(self):
        self.a, self.b = make_pool("A", ["a1", "a2"], shared=True), make_pool("B", ["b1"])
        sr = by_name(self.a, "SR", "a1-sr")
        self.vdis = [add_vdi(self.a, sr, 2 * GIB), add_vdi(self.a, sr, GIB)]
        self.vm = add_vm(
            self.a, by_name(self.a, "host", "a1"), self.vdis, by_name(self.a, "network", "guests")
        )
        self.known = sorted(
            record["uuid"]
            for pool in (self.a, self.b)
            for table in pool.tables.values()
            for record in table.values()
        )
        self.good = {
            "vm": uuid_of(self.a, "VM", self.vm),
            "remote-master": "10.1.0.1",
            "remote-username": "root",
            "remote-password": SECRET,
            "destination-sr-uuid": uuid_of(self.b, "SR", by_name(self.b, "SR", "b1-sr")),
            "vif:" + uuid_of(self.a, "VIF", self.a.tables["VM"][self.vm]["VIFs"][0]): uuid_of(
                self.b, "network", by_name(self.b, "network", "guests")
            ),
        }

    def plan(self, given):
        """(plan or None, problems) of the arguments `given`."""
        problems, source = Problems(), Records(self.a)
        request = arguments.read(given, problems)
        destination = Records(self.b) if request.remote else source
        _, vm = planner.find_vm(request, source, problems)
        here = by_name(self.a, "host", "a1")
        # refused before, or another host's to plan
        if not vm or planner.home(source, vm, here) != here:
            return None, problems
        return planner.make(request, source, destination, vm, here, problems), problems


WORLD = World()
VALUES = st.one_of(st.sampled_from(WORLD.known), UUIDS, ODD, st.booleans().map(str))
CHANGES = st.dictionaries(
    st.one_of(
        st.sampled_from(NAMES),
        ODD,
        st.sampled_from(WORLD.known).map("vdi:".__add__),
        st.sampled_from(WORLD.known).map("vif:".__add__),
    ),
    VALUES,
    max_size=6,
)


def check(given_arguments):
    plan, problems = WORLD.plan(given_arguments)
    assert WORLD.a.calls == [] and WORLD.b.calls == []
    assert all(isinstance(detail, str) and SECRET not in detail for detail in problems.details)
    json.dumps(BadArguments(*problems.details).failure())
    if plan is not None:
        assert not problems
        assert Plan.from_json(
            json.loads(json.dumps(plan.to_json()))
        ) == plan and SECRET not in json.dumps(plan.to_json())
    return plan


@fuzz_bounds.inputs("arguments", 2)
@given(CHANGES, st.booleans(), st.sets(st.sampled_from(sorted(WORLD.good))))
def test_arguments(changes, from_good, missing):
    given_arguments = dict(WORLD.good if from_good else {}, **changes)
    for name in missing:
        given_arguments.pop(name, None)
    with fuzz_bounds.bounded("arguments"):
        check(given_arguments)


@fuzz_bounds.inputs("arguments", 2)
@given(st.dictionaries(st.one_of(st.sampled_from(NAMES), ODD), JUNK, max_size=8))
def test_arguments_that_are_no_strings(given_arguments):
    with fuzz_bounds.bounded("arguments"):
        problems = Problems()
        arguments.read(given_arguments, problems)
        assert all(isinstance(detail, str) for detail in problems.details)


def test_more_arguments_than_anybody_needs():
    with fuzz_bounds.bounded("arguments"):
        problems = Problems()
        arguments.read({"vdi:%d" % number: "x" * 1000 for number in range(5000)}, problems)
        assert problems


# What a record of xapi may hold in a field, right or wrong, within the field's type.
FIELDS = st.one_of(
    st.tuples(
        st.just("VM"),
        st.sampled_from(["power_state", "resident_on"]),
        st.sampled_from(["Running", "Halted", "Paused", "Suspended", NULL, "?"]),
    ),
    st.tuples(
        st.just("VM"),
        st.sampled_from(["is_a_template", "is_a_snapshot", "is_control_domain", "ha_always_run"]),
        st.booleans(),
    ),
    st.tuples(st.just("VM"), st.sampled_from(["VBDs", "VIFs"]), st.just([])),
    st.tuples(
        st.just("VM"),
        st.sampled_from(["VGPUs", "VTPMs", "snapshots"]),
        st.lists(st.just(NULL), max_size=1),
    ),
    st.tuples(
        st.just("VM"),
        st.sampled_from(["other_config", "blocked_operations", "current_operations"]),
        st.dictionaries(
            st.sampled_from(["sxm_migration", "migrate_send", "OpaqueRef:t"]),
            st.sampled_from(["pool_migrate", "x"]),
        ),
    ),
    st.tuples(
        st.just("VDI"),
        st.sampled_from(["virtual_size", "physical_utilisation"]),
        st.sampled_from(["0", "-1", "511", str(1 << 63), str(3 << 40)]),
    ),
    st.tuples(
        st.just("VDI"),
        st.sampled_from(
            ["cbt_enabled", "missing", "sharable", "read_only", "is_a_snapshot", "managed"]
        ),
        st.booleans(),
    ),
    st.tuples(
        st.just("VDI"),
        st.sampled_from(["sm_config", "other_config"]),
        st.dictionaries(
            st.sampled_from(["paused", "key_hash", "vhd-parent", "host_x", "sxm_migration"]),
            st.sampled_from(WORLD.known + ["x"]),
        ),
    ),
    st.tuples(
        st.just("VBD"),
        st.sampled_from(["mode", "type", "userdevice"]),
        st.sampled_from(["RO", "RW", "CD", "Disk", "0"]),
    ),
    st.tuples(st.just("VBD"), st.just("empty"), st.booleans()),
    st.tuples(
        st.just("SR"),
        st.sampled_from(["physical_size", "physical_utilisation"]),
        st.sampled_from(["-1", "0", str(1 << 62)]),
    ),
    st.tuples(
        st.just("SR"),
        st.sampled_from(["type", "content_type"]),
        st.sampled_from(["iso", "lvm", "mirror", "udev", "", "\u2603"]),
    ),
    st.tuples(st.just("SR"), st.just("PBDs"), st.just([])),
    st.tuples(st.just("host"), st.just("enabled"), st.booleans()),
    st.tuples(st.just("PIF"), st.sampled_from(["IP", "management"]), st.just("")),
)


@fuzz_bounds.inputs("planner")
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), FIELDS), min_size=1, max_size=4),
    CHANGES,
)
def test_records(changes, more):
    pools = {"a": WORLD.a, "b": WORLD.b}
    kept = {name: pool.tables for name, pool in pools.items()}
    for pool in pools.values():
        pool.tables = copy.deepcopy(pool.tables)
    try:
        for name, index, (table, field, value) in changes:
            refs = sorted(pools[name].tables.get(table, {}))
            if refs:
                pools[name].tables[table][refs[index % len(refs)]][field] = value
        with fuzz_bounds.bounded("planner"):
            check(dict(WORLD.good, **more))
    finally:
        for name, pool in pools.items():
            pool.tables = kept[name]


@fuzz_bounds.inputs("migration ids")
@given(
    st.one_of(JUNK, UUIDS.map(str.upper), st.tuples(UUIDS, ODD).map("".join)).filter(
        lambda text: not UUID.match(str(text))
    )
)
def test_migration_ids(migration):
    with fuzz_bounds.bounded("migration ids"), pytest.raises(NoSuchMigration):
        journal.check_id(migration)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-1, 1 << 70), st.floats(), ODD),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ODD, inner, max_size=3)),
    max_leaves=8,
)
DISK = {
    "key": WORLD.known[0],
    "sr": WORLD.known[1],
    "size": 1 << 20,
    "name_label": "x",
    "name_description": "",
    "type": "user",
    "sharable": False,
    "other_config": {},
    "xenstore_data": {},
    "target": "",
}
TEXTS = st.one_of(
    ODD,
    JSON.map(json.dumps),
    st.lists(
        st.dictionaries(st.sampled_from(sorted(DISK)), JSON, max_size=3).map(
            lambda changes: dict(DISK, **changes)
        ),
        max_size=3,
    ).map(json.dumps),
    st.sampled_from(["[NaN]", json.dumps([dict(DISK, size=float("inf"))])]),
)
TROUBLE = [
    "[" * 100000,
    '{"a":' * 50000,
    "[" + "9" * 1000000 + "]",
    "[" + "0," * 300000 + "0]",
    " " * 5000000,
]


@fuzz_bounds.inputs("disks to receive", 1, EACH)
@given(TEXTS)
def test_disks_to_receive(example):
    for text in fuzz_bounds.variants(example.encode("utf-8", "replace")):
        disks_of(text.decode("utf-8", "replace"))


@pytest.mark.parametrize("number", range(len(TROUBLE)))
def test_disks_that_are_trouble(number):
    disks_of(TROUBLE[number])


def disks_of(text):
    """Have them checked, as `receive` and `receive-renew` do."""
    entry = Journal("/nowhere", {"disks": {DISK["key"]: {"vdi": "x"}}})
    with fuzz_bounds.bounded("disks to receive"):
        try:
            disks = wanted_disks.read(text)
            assert all(disk["size"] > 0 and disk["size"] % 512 == 0 for disk in disks)
        except BadArguments as error:
            json.dumps(error.failure())
        try:
            assert wanted_disks.known_keys(entry, text) == [DISK["key"]]
        except BadArguments:
            pass
