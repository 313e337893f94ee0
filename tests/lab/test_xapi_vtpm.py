# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's xapi: virtual TPMs, by the rules of xapi_vtpm.ml, export.ml and import.ml."""

import glob
import signal

import pytest

from lab.http_client import UnixConnection
from lab.xapi import vtpm
from lab.xapi.database import Database
from lab.xapi.failures import Failure
from lab.xenopsd import wire
from xapi_archive import document, export, imported, packed
from xapi_fixture import failure_of, pool_with_xenopsds, sr, vbd_record, vdi_record, vm_record, x  # noqa: F401

UEFI = {"HVM_boot_params": {"order": "c", "firmware": "uefi"}}
# as xapi-guard writes it: what swtpm has for good, saved, and of the moment
CONTENTS = "dGhlIHBlcm1hbmVudCBzdGF0ZQ== c2F2ZWQ= "


@pytest.fixture(scope="module")
def pool():
    with pool_with_xenopsds(2) as pool:
        yield pool


@pytest.fixture
def vm(x, sr):
    """A halted VM with one disk, that boots by UEFI."""
    vm = x.VM.create(vm_record(**UEFI))
    x.VBD.create(vbd_record(vm, x.VDI.create(vdi_record(sr))))
    yield vm
    if vm in x.VM.get_all():
        if x.VM.get_power_state(vm) == "Running":
            x.VM.hard_shutdown(vm)
        x.VM.destroy(vm)


def secrets(x):
    return sorted(record["value"] for record in x.secret.get_all_records().values())


def test_from_creation_to_destruction(x, vm):
    assert "create_vtpm" in x.VM.get_allowed_operations(vm)
    tpm = x.VTPM.create(vm, True)
    record = x.VTPM.get_record(tpm)
    uuid = record.pop("uuid")
    assert record == {
        "VM": vm,
        "allowed_operations": ["destroy"],
        "backend": "OpaqueRef:NULL",
        "current_operations": {},
        "is_protected": False,
        "is_unique": True,
        "persistence_backend": "xapi",
    }
    assert x.VTPM.get_by_uuid(uuid) == tpm and x.VM.get_VTPMs(vm) == [tpm]
    assert x.VTPM.get_contents(tpm) == "" and secrets(x) == [""]
    assert failure_of(x.VTPM.create, vm, False) == ["VTPM_MAX_AMOUNT_REACHED", "1"]
    assert "create_vtpm" not in x.VM.get_allowed_operations(vm)
    x.VTPM.set_contents(tpm, CONTENTS)
    assert x.VTPM.get_contents(tpm) == CONTENTS and secrets(x) == [CONTENTS]
    assert failure_of(x.VTPM.get_secret, tpm) == ["MESSAGE_METHOD_UNKNOWN", "VTPM.get_secret"]
    x.VTPM.destroy(tpm)
    assert secrets(x) == [] and x.VM.get_VTPMs(vm) == []
    assert "create_vtpm" in x.VM.get_allowed_operations(vm)
    assert failure_of(x.VTPM.get_contents, tpm) == ["HANDLE_INVALID", "VTPM", tpm]


def test_while_the_vm_runs(x, vm):
    tpm = x.VTPM.create(vm, False)
    x.VM.start(vm, False, False)
    assert x.VTPM.get_allowed_operations(tpm) == []
    assert failure_of(x.VTPM.destroy, tpm) == [
        "VM_BAD_POWER_STATE",
        vm,
        "halted;suspended",
        "running",
    ]
    x.VTPM.set_contents(tpm, CONTENTS)
    x.VM.hard_shutdown(vm)
    assert x.VTPM.get_contents(tpm) == CONTENTS
    x.VM.start(vm, False, False)
    assert failure_of(x.VTPM.create, vm, False)[0] == "VM_BAD_POWER_STATE"


def test_a_vm_that_boots_by_bios_does_not_start_with_one(x, vm):
    x.VTPM.create(vm, False)
    x.VM.set_HVM_boot_params(vm, {"order": "c"})
    assert failure_of(x.VM.start, vm, False, False) == [
        "NOT_IMPLEMENTED",
        "Booting BIOS VM with VTPMs attached",
    ]
    # a real xapi has noted them before that, and leaves them so
    (vbd,) = x.VM.get_VBDs(vm)
    assert x.VM.get_power_state(vm) == "Halted" and x.VBD.get_currently_attached(vbd)
    assert x.VM.get_resident_on(vm) in x.host.get_all()
    assert failure_of(x.VBD.destroy, vbd)[0] == "OPERATION_NOT_ALLOWED"
    x.VM.power_state_reset(vm)
    assert not x.VBD.get_currently_attached(vbd)


def test_it_is_destroyed_with_its_vm(x, vm):
    tpm = x.VTPM.create(vm, False)
    x.VTPM.set_contents(tpm, CONTENTS)
    x.VM.destroy(vm)
    assert tpm not in x.VTPM.get_all() and secrets(x) == []


@pytest.mark.parametrize("unique, contents", [(False, CONTENTS), (True, "")])
def test_a_snapshot_has_a_copy_of_one_that_is_not_unique(x, vm, unique, contents):
    tpm = x.VTPM.create(vm, unique)
    x.VTPM.set_contents(tpm, CONTENTS)
    taken = x.VM.snapshot(vm, "s")
    (copy,) = x.VM.get_VTPMs(taken)
    assert copy != tpm and x.VTPM.get_contents(copy) == contents
    x.VM.destroy(taken)
    assert x.VTPM.get_contents(tpm) == CONTENTS


@pytest.mark.parametrize("restrictions", [{}, {"restrict_vtpm": "true"}])
def test_a_pool_that_may_have_none(restrictions):
    database = Database()
    database.create("pool", {"restrictions": restrictions})
    vm = database.create("VM", {})
    with pytest.raises(Failure) as refused:
        vtpm.make(database, vm, False)
    assert refused.value.description == ["FEATURE_RESTRICTED", "restrict_vtpm"]


def test_it_is_on_disk(pool, x, vm):
    """As in xapi's own database, and nowhere else."""
    tpm = x.VTPM.create(vm, False)
    x.VTPM.set_contents(tpm, CONTENTS)
    x.pool.sync_database()
    pool.master.stop(signal.SIGKILL)
    pool.master.start()
    pool.master.wait_ready()
    y = pool.master.remote().xenapi
    assert y.VTPM.get_contents(tpm) == CONTENTS
    for host in pool.hosts:
        for path in glob.glob(host.root + "/var/log/*"):
            with open(path) as log:
                assert CONTENTS.split()[0] not in log.read()


@pytest.mark.parametrize("number", [0, 1], ids=["master", "member"])
def test_xenopsd_asks_for_it(pool, x, vm, number):
    tpm = x.VTPM.create(vm, False)
    uuid, socket = x.VTPM.get_uuid(tpm), pool.hosts[number].root + "/var/lib/xcp/xapi"

    def ask(method, **members):
        return wire.call_unix(socket, "/services/guard", method, members, 30)

    assert ask("vtpm_set_contents", vtpm_uuid=uuid, contents=CONTENTS) == ""
    assert ask("vtpm_get_contents", vtpm_uuid=uuid) == CONTENTS == x.VTPM.get_contents(tpm)
    with pytest.raises(wire.RpcFailure) as refused:
        ask("vtpm_get_contents", vtpm_uuid="no")
    assert refused.value.description == ["UUID_INVALID", "VTPM", "no"]
    connection = UnixConnection(socket, 30)
    connection.request("POST", "/services/guard", "<nonsense>" + CONTENTS)
    answer = connection.getresponse().read().decode()
    connection.close()
    assert CONTENTS.split()[0] not in answer


def test_it_goes_with_the_metadata_to_another_pool(pool, x, vm):
    tpm = x.VTPM.create(vm, False)
    x.VTPM.set_contents(tpm, CONTENTS)
    uuid, session = x.VTPM.get_uuid(tpm), pool.master.remote()
    exported = document(export(pool.master, vm, session.handle, export_snapshots="false")[1])
    (described,) = [item for item in exported["objects"] if item["class"] == "VTPM"]
    assert described["snapshot"] == {
        "vTPM'_VM": "Ref:0",
        "vTPM'_uuid": uuid,
        "vTPM'_is_unique": False,
        "vTPM'_is_protected": False,
        "vTPM'_content": CONTENTS,
    }
    assert exported["objects"][0]["snapshot"]["VTPMs"] == [described["id"]]
    described["snapshot"]["vTPM'_is_protected"] = True
    # within this pool it would meet itself
    exported["objects"][0]["snapshot"]["uuid"] = "11111111-2222-3333-4444-555555555555"
    for item in exported["objects"]:
        if item["class"] in ("VBD", "VIF"):
            item["snapshot"]["uuid"] = ""
    dry = {"restore": "true", "live": "true", "dry_run": "true"}
    for query in (dry, dict(dry, dry_run="false")):
        refused = imported(pool.master, x, session.handle, packed(exported), **query)
        assert refused["error_info"] == [
            "IMPORT_ERROR_GENERIC",
            "A VTPM with UUID %s already exists" % uuid,
        ]
    anew = imported(pool.master, x, session.handle, packed(exported))
    assert anew["status"] == "success", "without restore it has a UUID of its own"
    x.VM.destroy(vm)
    brought = imported(pool.master, x, session.handle, packed(exported), **dict(dry, dry_run=""))
    assert brought["status"] == "success", brought["error_info"]
    (ref,) = [
        ref
        for ref, record in x.VM.get_all_records().items()
        if record["uuid"].startswith("11111111")
    ]
    (arrived,) = x.VM.get_VTPMs(ref)
    record = x.VTPM.get_record(arrived)
    assert (record["uuid"], record["is_unique"], record["is_protected"]) == (uuid, False, True)
    assert x.VTPM.get_contents(arrived) == CONTENTS
    del described["snapshot"]["vTPM'_content"]
    failed = imported(pool.master, x, session.handle, packed(exported))
    code, text = failed["error_info"]
    assert code == "INTERNAL_ERROR" and "vTPM'_content" in text


def test_an_import_that_fails_leaves_none(pool, x, vm):
    x.VTPM.create(vm, False)
    session = pool.master.remote()
    exported = document(export(pool.master, vm, session.handle, export_snapshots="false")[1])
    exported["objects"].append(
        next(dict(item) for item in exported["objects"] if item["class"] == "VTPM")
    )
    before = len(x.VTPM.get_all()), len(x.secret.get_all()), len(x.VM.get_all())
    failed = imported(pool.master, x, session.handle, packed(exported))
    assert failed["error_info"] == ["VTPM_MAX_AMOUNT_REACHED", "1"]
    assert (len(x.VTPM.get_all()), len(x.secret.get_all()), len(x.VM.get_all())) == before
