# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's xapi: a VIF's locking mode and addresses, which want a licence (xapi_vif.ml,
import.ml)."""

import types

import pytest

from lab.xapi import devices, metadata_export, metadata_import, wire
from lab.xapi.database import Database
from lab.xapi.failures import Failure
from lab.xapi.schema import NULL

LOCKED = {"locking_mode": "locked", "ipv4_allowed": ["10.0.0.9"]}


def pool_of(restricted):
    """A database of a pool."""
    database = Database()
    host = database.create("host", {"hostname": "h"})
    restrictions = {devices.LOCKING: restricted}
    database.create("pool", {"master": host, "restrictions": restrictions})
    return database


def interface_of(database):
    """(a VM of it, its VIF)"""
    network = database.create("network", {"name_label": "net", "bridge": "xenbr0"})
    vm = database.create("VM", {"power_state": "Halted", "metrics": NULL, "version": 1})
    return vm, database.create("VIF", {"VM": vm, "network": network, "device": "0"})


def lock(database, vif):
    context = types.SimpleNamespace(database=database)
    devices.set_locking_mode(context, vif, "locked")
    devices.set_ipv4_allowed(context, vif, LOCKED["ipv4_allowed"])


@pytest.mark.parametrize(
    "restricted, expected",
    [("false", LOCKED), ("true", {"locking_mode": "network_default", "ipv4_allowed": []})],
)
def test_an_importer_leaves_them_out_where_the_licence_has_them_not(restricted, expected):
    source, there = pool_of("false"), pool_of(restricted)
    vm, vif = interface_of(source)
    lock(source, vif)
    context = types.SimpleNamespace(database=there, task="OpaqueRef:t")
    options = metadata_import.Options(True, True, False, False, {})
    document = wire.parse_value(metadata_export._ova(source, vm, False))
    (made,) = metadata_import.run(context, document, options)
    (arrived,) = there.get("VM", made, "VIFs")
    assert {field: there.get("VIF", arrived, field) for field in LOCKED} == expected


@pytest.mark.parametrize(
    "ask",
    [
        lambda context, vif: devices.set_locking_mode(context, vif, "locked"),
        lambda context, vif: devices.set_ipv4_allowed(context, vif, ["10.0.0.9"]),
    ],
)
def test_without_the_licence_none_can_be_set(ask):
    database = pool_of("true")
    _, vif = interface_of(database)
    with pytest.raises(Failure) as refused:
        ask(types.SimpleNamespace(database=database), vif)
    assert refused.value.description == ["LICENCE_RESTRICTION", "VIF_locking"]
