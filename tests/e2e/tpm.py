# SPDX-License-Identifier: LGPL-2.1-only
"""A VM with a virtual TPM, and what is in that. Nothing writes to a TPM in the lab but this, by
VTPM.set_contents, as xapi-guard does."""

import base64
import os

UEFI = {"order": "c", "firmware": "uefi"}


def written():
    """What a TPM's program has written: its permanent state, a saved one, and none of the
    moment."""
    texts = (base64.b64encode(os.urandom(size)).decode() for size in (6000, 300))
    return "%s %s " % tuple(texts)


def give(scene):
    """Have its VM boot by UEFI, with a TPM."""
    api = scene.pool.xapi
    vm = api.VM.get_by_uuid(scene.uuid)
    api.VM.hard_shutdown(vm)
    api.VM.set_HVM_boot_params(vm, UEFI)
    api.VTPM.create(vm, False)
    start(scene)
    api.pool.sync_database()


def start(scene):
    """Start its VM where its disks are."""
    scene.pool.start_vm(scene.pool.xapi.VM.get_by_uuid(scene.uuid), scene.host.name)
    scene.wait_for_writes(20)


class Tpm:
    """The TPM of a scene's VM, wherever that is."""

    def __init__(self, scene):
        self._scene = scene
        self.known = []

    api = property(lambda self: self._scene.pool.xapi.VTPM)

    @property
    def ref(self):
        """Its ref."""
        (ref,) = self._scene.record["VTPMs"]
        return ref

    @property
    def identity(self):
        """(UUID, two marks) of it."""
        record = self.api.get_record(self.ref)
        return record["uuid"], record["is_unique"], record["is_protected"]

    def write(self):
        """Have something new in it."""
        self.known.append(written())
        self.api.set_contents(self.ref, self.known[-1])

    def has_the_last(self):
        """Whether what was written last is in it."""
        return self.api.get_contents(self.ref) == self.known[-1]

    def secrets(self):
        """{what it is: its text} of all that has been in it."""
        parts = [text.split() for text in self.known]
        return {
            "%s of write %d" % (name, number): part.encode()
            for number, pair in enumerate(parts)
            for name, part in zip(("the permanent state", "the saved state"), pair)
        }


def assert_only_here(scene, tpm):
    """One TPM in the VM's pool, none in the other, and as many secrets."""
    for pool in scene.lab.pools:
        api, here = pool.xapi, pool is scene.pool
        assert len(api.VTPM.get_all()) == here and len(api.secret.get_all()) == here, pool.name
    assert tpm.has_the_last()
