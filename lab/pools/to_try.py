# SPDX-License-Identifier: LGPL-2.1-only
"""A lab for a person to type commands in (`make lab`): pools paris and lyon, two VMs that write,
and a configuration of `sxm` of its own that has the pools' addresses and passwords."""

import json
import os

from lab.pools.topology import PoolPlan

MIB = 1 << 20
PLAN = (PoolPlan("paris", ("a1", "a2"), False), PoolPlan("lyon", ("b1",), False))
VMS = (("web", (96 * MIB, 32 * MIB)), ("db", (64 * MIB,)))
"""Each VM, with the sizes of its disks; all on a1-fast."""
GUEST = {"writes": 40, "fill": 0.6}


def furnish(lab):
    """Start the VMs, and write the configuration. Returns its folder, for XDG_CONFIG_HOME."""
    home = configure(lab)
    pool = lab.pool("paris")
    for name, sizes in VMS:
        vm = pool.create_vm(name, [(pool.sr("a1", "fast"), size) for size in sizes], GUEST)
        pool.start_vm(vm, "a1")
    return home


def configure(lab):
    """Write the pools of `lab`, the first as the default, for `sxm`."""
    home = os.path.join(lab.directory, "config")
    folder = os.path.join(home, "sxm")
    os.makedirs(folder)
    text = "default = %s\n" % json.dumps(lab.pools[0].name)
    for pool in lab.pools:
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
    return home
