# SPDX-License-Identifier: LGPL-2.1-only
"""A lab for a person to type commands in (`make lab`; tools/walkthrough.py does): pools paris and
lyon, two VMs that write, and a configuration of `sxm` of its own that has the pools' addresses and
passwords."""

import json
import os

from lab.pools.topology import PoolPlan

MIB = 1 << 20
PLAN = (PoolPlan("paris", ("a1", "a2"), False), PoolPlan("lyon", ("b1",), False))
VMS = (("web", (96 * MIB, 32 * MIB)), ("db", (64 * MIB,)))
"""Each VM, with the sizes of its disks; all on a1-fast."""
GUEST = {"writes": 40, "fill": 0.6}


def furnish(lab):
    """Start the VMs. Returns their UUIDs, in the order of VMS."""
    return [start(lab, name, sizes) for name, sizes in VMS]


def start(lab, name, sizes):
    """Start a VM on a1, which writes; its UUID. `sizes`: of its disks, in bytes."""
    pool = lab.pool("paris")
    disks = [(pool.sr("a1", "fast"), size) for size in sizes]
    return pool.start_vm(pool.create_vm(name, disks, GUEST), "a1")


def configure(pools, config):
    """Write `pools`, the first as the default, for an `sxm` whose XDG_CONFIG_HOME is `config`."""
    folder = os.path.join(config, "sxm")
    os.makedirs(folder)
    text = "default = %s\n" % json.dumps(pools[0].name)
    for pool in pools:
        password = os.path.join(folder, pool.name + ".password")
        with open(password, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
            out.write(pool.password + "\n")
        text += "\n[pools.%s]\naddress = %s\npassword_file = %s\n" % (
            pool.name,
            json.dumps("%s:%d" % (pool.master.address, pool.master.https_port)),
            json.dumps(password),
        )
    with open(os.path.join(folder, "pools.toml"), "w") as out:
        out.write(text)
