# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm` from an administrator's machine, over TLS with both pools: it plans by names, moves, and
shows both hosts' logs of it."""

import json

from lab.pools.topology import PoolPlan
from storage_motion.cli import main

DISKS = (4 << 20,)
PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))


def test_a_move_to_another_pool_by_names(lab, scene, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "sxm").mkdir()
    tables = []
    for name in ("A", "B"):
        pool, secret = lab.pool(name), tmp_path / name
        secret.write_text(pool.password + "\n")
        secret.chmod(0o600)
        address = "%s:%d" % (pool.master.address, pool.master.https_port)
        tables.append(
            '[pools.%s]\naddress = "%s"\npassword_file = "%s"\n' % (name, address, secret)
        )
    (tmp_path / "sxm" / "pools.toml").write_text('default = "A"\n' + "".join(tables))

    def sxm(*words):
        status = main.main(words)
        seen = capsys.readouterr()
        assert all(lab.pool(name).password not in seen.out + seen.err for name in "AB")
        return status, seen.out, seen.err

    vm = scene.pool.xapi.VM.get_name_label(scene.pool.xapi.VM.get_by_uuid(scene.uuid))
    there = lab.pool("B")
    network = there.xapi.network.get_name_label(there.network())
    sr = there.xapi.SR.get_name_label(there.sr("b1", "fast"))
    move = ["--vm", vm, "--to-pool", "B", "--to-sr", sr, "--network", "0=" + network]
    status, out, err = sxm("plan", *move)
    assert status == 0 and err.count("is new to this machine") == 2, (out, err)
    assert "xapi would do it" in out and "SR %s (" % sr in out, out
    status, out, err = sxm("migrate", *move)
    assert status == 0 and ": succeeded" in out.splitlines()[-1], (out, err)
    migration = out.split()[1]
    page = tmp_path / "data" / "sxm" / "reports" / ("%s-%s.html" % (vm, migration[:8]))
    assert page.exists() and str(page) in err.replace("\n", "")
    status, out, err = sxm("show", migration, "--log", "--json")
    found = json.loads(out)
    assert status == 0 and err == "" and found["state"] == "succeeded"
    assert {line["host"] for line in found["log"]} == {"a1", "b1"}
    assert {line["by"] for line in found["log"]} >= {"worker", "mover", "receiver"}
    assert all(migration in line["text"] for line in found["log"])
    scene.settle()
    scene.assert_runs()
    scene.assert_nothing_left()
