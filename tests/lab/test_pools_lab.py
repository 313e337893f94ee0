# SPDX-License-Identifier: LGPL-2.1-only
"""The whole lab: a VM starts, writes, is looked at by xe, moves by xenopsd alone, survives kills,
and nothing is left."""

import json
import os
import subprocess
import sys
from uuid import uuid4

import pytest

from lab.pools import daemons, leftovers, stacks
from lab.pools.lab import Lab
from lab.pools.roots import REPOSITORY
from lab.pools.topology import PoolPlan
from tests.eventually import eventually

MIB = 1 << 20


@pytest.fixture(scope="module")
def lab():
    with Lab() as lab:
        yield lab


def xe(pool, *words):
    command = [
        sys.executable,
        "-m",
        "lab.xe",
        "-s",
        pool.master.address,
        "-p",
        str(pool.master.https_port),
        "-u",
        "root",
        "-pw",
        pool.password,
    ]
    return subprocess.run(
        command + list(words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        cwd=REPOSITORY,
    )


def delete(pool, vm):
    for vbd in pool.xapi.VM.get_VBDs(vm):
        pool.xapi.VDI.destroy(pool.xapi.VBD.get_VDI(vbd))
    pool.xapi.VM.destroy(vm)


def test_a_vm_with_two_disks_starts_writes_is_checked_and_shut_down(lab):
    pool, host = lab.pool("A"), lab.host("a1")
    vm = pool.create_vm(
        "web", [(pool.sr("a1", "fast"), 32 * MIB), (pool.sr("a1", "big"), 16 * MIB)]
    )
    uuid = pool.start_vm(vm, "a1")
    eventually(lambda: host.guest(uuid).status()["writes_acknowledged"] > 100, "100 writes")
    assert host.guest(uuid).check()["missing"] == 0
    status = host.guest(uuid).status()
    assert (status["missing"], status["errors"], status["foreign"]) == (0, 0, 0)
    assert leftovers.at_rest(lab) == []
    was = leftovers.footprint(pool, vm)
    assert {text.split()[0] for text in leftovers.of_vm(pool, was)} == {
        "VM",
        "VBD",
        "VIF",
        "VDI",
        "image",
        "a1",
    }
    pool.xapi.VM.clean_shutdown(vm)
    assert leftovers.at_rest(lab) == []
    delete(pool, vm)
    assert leftovers.at_rest(lab) == [] and leftovers.of_vm(pool, was) == []


def test_xe_by_https_by_http_and_in_dom0(lab):
    pool, host = lab.pool("A"), lab.host("a2")
    assert xe(pool, "host-list", "params=name-label", "--minimal").stdout.strip().split(",") in (
        ["a1", "a2"],
        ["a2", "a1"],
    )
    names = (
        xe(pool, "sr-list", "type=file", "params=name-label", "--minimal").stdout.strip().split(",")
    )
    assert sorted(names) == ["a1-big", "a1-fast", "a2-big", "a2-fast", "shared"]
    assert "host ( RO): <shared>" in xe(pool, "sr-list", "name-label=shared").stdout
    done = xe(pool, "host-call-plugin", "host-uuid=" + host.uuid, "plugin=nothing", "fn=x")
    assert (done.returncode, done.stderr) == (
        1,
        "The requested plug-in could not be found.\nname: nothing\n",
    )
    refused = subprocess.run(
        [
            sys.executable,
            "-m",
            "lab.xe",
            "-s",
            pool.master.address,
            "-p",
            str(pool.master.http_port),
            "-u",
            "root",
            "-pw",
            "wrong",
            "vm-list",
        ],
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        timeout=60,
    )
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (1, "Authentication failed")
    local = subprocess.run(
        [host.root + "/usr/bin/xe", "network-list", "name-label=guests", "--minimal"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert local.stdout.strip() == pool.xapi.network.get_uuid(pool.network())


def test_xenopsd_moves_a_vm_on_shared_storage(lab):
    pool, source, destination = lab.pool("A"), lab.host("a1"), lab.host("a2")
    vm = pool.create_vm("mover", [(pool.sr("shared"), 16 * MIB)], {"writes": 200})
    uuid = pool.start_vm(vm, "a1")
    eventually(lambda: source.guest(uuid).status()["writes_acknowledged"] > 50, "50 writes")
    network = next(
        network
        for network, record in pool.xapi.network.get_all_records().items()
        if any(pool.xapi.PIF.get_management(pif) for pif in record["PIFs"])
    )
    receive = pool.xapi.host.migrate_receive(pool.host_ref("a2"), network, {})
    task = source.xenopsd(
        "VM.migrate",
        id=uuid,
        vdi_map={},
        vif_map={},
        pci_map={},
        xenops_url=receive["xenops"],
        compress=False,
        verify_dest=False,
        localhost_migration=False,
    )
    eventually(
        lambda: source.xenopsd("Task.stat", id=task)["state"][0] != "Pending", "the move's end"
    )
    state = source.xenopsd("Task.stat", id=task)["state"]
    assert state[0] == "Completed", state
    pool.xapi.VM.pool_migrate_complete(vm, pool.host_ref("a2"))
    assert pool.xapi.VM.get_resident_on(vm) == pool.host_ref("a2")
    assert pool.xapi.VM.get_power_state(vm) == "Running"
    eventually(lambda: destination.guest(uuid).status()["pauses"], "the guest goes on")
    assert destination.guest(uuid).check()["missing"] == 0
    assert leftovers.at_rest(lab) == []
    assert 0 < destination.xenopsd("VM.stat", id=uuid)["migration"]["downtime"] < 60
    pool.xapi.VM.hard_shutdown(vm)
    delete(pool, vm)
    assert leftovers.at_rest(lab) == []


def test_a_guest_and_a_xenopsd_that_are_killed_are_noticed(lab):
    pool, host = lab.pool("B"), lab.host("b1")
    vm = pool.create_vm("crash", [(pool.sr("b1", "fast"), 8 * MIB)])
    uuid = pool.start_vm(vm, "b1")
    host.kill("xenopsd")
    assert "lab.xenopsd" not in " ".join(daemons.of_root(host.root).values())
    host.start_xenopsd()
    assert host.xenopsd("VM.stat", id=uuid)["power_state"] == "Running"
    before = host.guest(uuid).status()["writes_acknowledged"]
    eventually(lambda: host.guest(uuid).status()["writes_acknowledged"] > before, "a further write")
    os.kill(host.domain(uuid)["pid"], 9)
    eventually(lambda: pool.xapi.VM.get_power_state(vm) == "Halted", "xapi knows of its end")
    delete(pool, vm)
    assert [text for text in leftovers.at_rest(lab) if "xenopsd knows" not in text] == []


def doctor(lab, tmp_path):
    """(exit status, {(level, check, where): what}) of what `sxm doctor` finds in both pools."""
    here, there = lab.pool("A"), lab.pool("B")
    done = subprocess.run(
        [sys.executable, "-m", "storage_motion.cli.main"]
        + ["-s", here.url, "doctor", "--to-pool", there.url, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=100,
        cwd=REPOSITORY,
        env=dict(
            os.environ,
            SXM_PASSWORD=here.password,
            SXM_REMOTE_PASSWORD=there.password,
            XDG_CONFIG_HOME=str(tmp_path),
        ),
    )
    found = json.loads(done.stdout)["findings"]
    return done.returncode, {
        (one["level"], one["check"], one["where"]): one["what"] for one in found
    }


def test_the_doctor_finds_what_is_wrong_and_nothing_in_a_lab_that_is_well(lab, tmp_path):
    here, there = lab.pool("A"), lab.pool("B")
    status, found = doctor(lab, tmp_path)
    assert status == 0 and {level for level, _, _ in found} == {"ok"}, found
    assert "the hosts reach one another" in found.values()
    vm = here.create_vm("claimed", [(here.sr("a1", "fast"), 8 * MIB)])
    (vbd,) = here.xapi.VM.get_VBDs(vm)
    vdi = here.xapi.VBD.get_VDI(vbd)
    here.xapi.VM.add_to_other_config(vm, "sxm_migration", str(uuid4()))
    here.xapi.VDI.add_to_sm_config(vdi, "relinking", "True")
    plugin = there.host("b1").root + "/etc/xapi.d/plugins/sxm.py"
    os.rename(plugin, plugin + ".away")
    try:
        status, found = doctor(lab, tmp_path)
    finally:
        os.rename(plugin + ".away", plugin)
    of_vm = "VM claimed (%s)" % here.xapi.VM.get_uuid(vm)
    of_vdi = "VDI %s (%s)" % (here.xapi.VDI.get_name_label(vdi), here.xapi.VDI.get_uuid(vdi))
    bad = {key: what for key, what in found.items() if key[0] == "problem"}
    assert status == 1 and sorted(bad) == [
        ("problem", "SM", of_vdi),
        ("problem", "leftovers", of_vm),
        ("problem", "plugin", "host b1 of %s" % there.url),
    ], bad
    assert bad["problem", "plugin", "host b1 of %s" % there.url] == "has no Storage XenMotion"
    assert "nobody is at it" in bad["problem", "SM", of_vdi]
    here.xapi.VDI.remove_from_sm_config(vdi, "relinking")
    delete(here, vm)


def test_where_its_processes_stand_is_told(lab):
    """Of each xapi and xenopsd, in one look or another: it looks while they run."""
    wanted = {
        "%s %d" % (name.partition("/")[0], pid): "daemon.py:" if "xapi" in name else "server.py:"
        for name, pid in lab.daemons.pids().items()
    }
    assert len(wanted) == 6

    def all_seen():
        process, text = "", stacks.told(lab)
        for line in text.splitlines():
            if not line.startswith(" "):
                process = line.partition(" (")[0]
            elif wanted.get(process, "-") in line and " serve" in line:
                del wanted[process]
        return not wanted

    eventually(all_seen, "all are seen", seen=lambda: stacks.told(lab))


def test_a_lab_that_goes_down_leaves_nothing():
    lab = Lab([PoolPlan("C", ("c1",), False)])
    lab.up()
    roots = [host.root for host in lab.hosts]
    subprocess.run(
        [sys.executable, "-m", "lab.pools", "status", "--dir", lab.directory],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=REPOSITORY,
    )
    pids = lab.daemons.pids()
    assert sorted(pids) == ["c1/xapi", "c1/xenopsd"]
    assert lab.down() == []
    assert not os.path.exists(lab.directory) and all(daemons.of_root(root) == {} for root in roots)
    assert not any(os.path.exists("/proc/%d" % pid) for pid in pids.values())


def test_clean_ends_a_lab_whose_process_was_killed_and_no_other(lab):
    code = (
        "import os; from lab.pools.lab import Lab; from lab.pools.topology import PoolPlan\n"
        "made = Lab(plan=(PoolPlan('A', ('a1',), False),)); made.up(); print(made.directory, "
        "flush=True); os.kill(os.getpid(), 9)"
    )
    directory = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=120, cwd=REPOSITORY
    ).stdout.strip()
    assert os.path.exists(directory)
    said = subprocess.run(
        [sys.executable, "-m", "lab.pools", "clean"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        cwd=REPOSITORY,
    ).stdout
    assert "ending the lab in %s" % directory in said and not os.path.exists(directory)
    assert "the lab in %s belongs to process %d" % (
        lab.directory,
        os.getpid(),
    ) in said and os.path.exists(lab.directory)
