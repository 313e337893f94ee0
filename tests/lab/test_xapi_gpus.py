# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's xapi: virtual GPUs of halted VMs, by the rules of xapi_vgpu.ml, export.ml and
import.ml."""

import types

import pytest

from lab.xapi import gpus, metadata_export, metadata_import, wire
from lab.xapi.database import Database
from lab.xapi.failures import Failure
from lab.xapi.schema import NULL
from storage_motion.xapi import ova

TYPE = {"identifier": "0001:nvidia", "vendor_name": "NVIDIA", "model_name": "A16-2Q"}


class Pool:
    """With one host, whose GPU is in `group`, and can be that of `of_type` for two VMs."""

    def __init__(self, gpu_types=("10de/20b5",)):
        self.database = Database()
        make = self.database.create
        self.host = make("host", {"hostname": "h"})
        restrictions = {"restrict_gpu": "false"}
        self.pool = make("pool", {"master": self.host, "restrictions": restrictions})
        self.of_type = make("VGPU_type", TYPE)
        self.group = self.add_group(gpu_types)

    def add_group(self, gpu_types):
        group = self.database.create("GPU_group", {"GPU_types": list(gpu_types)})
        capacities = {self.of_type: 2}
        self.database.create(
            "PGPU",
            {
                "GPU_group": group,
                "host": self.host,
                "enabled_VGPU_types": [self.of_type],
                "supported_VGPU_max_capacities": capacities,
            },
        )
        return group

    def add_vm(self):
        vm = self.database.create("VM", {"power_state": "Halted", "metrics": NULL, "version": 1})
        fields = {"GPU_group": self.group, "type": self.of_type, "device": "0"}
        return vm, gpus.make(self.database, vm, dict(fields, other_config={"a": "b"}))

    def take(self, document, dry_run=False):
        context = types.SimpleNamespace(database=self.database, task="OpaqueRef:t")
        options = metadata_import.Options(True, True, dry_run, False, {})
        (vm,) = metadata_import.run(context, wire.parse_value(document), options) or [None]
        return vm


@pytest.fixture
def source():
    return Pool()


@pytest.fixture
def exported(source):
    """(the document of a VM with a virtual GPU, that GPU's record)"""
    vm, vgpu = source.add_vm()
    document = metadata_export._ova(source.database, vm, False)
    return document, source.database.record("VGPU", vgpu)


def only_vgpu(pool, vm):
    (vgpu,) = pool.database.get("VM", vm, "VGPUs")
    return pool.database.record("VGPU", vgpu)


def test_it_goes_to_the_group_of_the_same_gpus(exported):
    document, before = exported
    there = Pool()
    assert there.take(document, dry_run=True) is None
    after = only_vgpu(there, there.take(document))
    assert (after["GPU_group"], after["type"]) == (there.group, there.of_type)
    assert (after["uuid"], after["other_config"]) == (before["uuid"], {"a": "b"})


def test_or_to_the_one_that_we_have_it_map_to(exported):
    document, before = exported
    there = Pool()
    other = there.add_group(["10de/20b5"])
    rewritten = ova.rewrite(document, {}, {}, vgpus={before["uuid"]: other})
    after = only_vgpu(there, there.take(rewritten))
    assert (after["GPU_group"], after["other_config"]) == (other, {"a": "b"})


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_pool_without_such_a_group_takes_it_in_no_other(exported, dry_run):
    document, before = exported
    there = Pool(gpu_types=("8086/1234",))
    for given in (document, ova.rewrite(document, {}, {}, vgpus={before["uuid"]: there.group})):
        with pytest.raises(Failure, match="Unable to find GPU group"):
            there.take(given, dry_run)


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_group_without_room_does_not_take_even_a_halted_one(exported, dry_run):
    there = Pool()
    (pgpu,) = there.database.refs("PGPU")
    there.database.set("PGPU", pgpu, enabled_VGPU_types=[])
    with pytest.raises(Failure) as refused:
        there.take(exported[0], dry_run)
    assert refused.value.code == "VM_REQUIRES_GPU"


def test_a_pool_without_the_licence_says_so_late(exported):
    there = Pool()
    there.database.set("pool", there.pool, restrictions={})
    assert there.take(exported[0], dry_run=True) is None
    with pytest.raises(Failure) as refused:
        there.take(exported[0])
    assert refused.value.code == "FEATURE_RESTRICTED"
