# SPDX-License-Identifier: LGPL-2.1-only
"""The demo's story: two pools, two VMs, three moves. Each move is run by the command that an
administrator would type."""

import contextlib

from lab.demo import screen
from lab.demo.move import Move
from lab.pools import at_switch
from lab.pools.lab import Lab

MIB = 1 << 20
DISKS = (("fast", 160 * MIB), ("big", 224 * MIB))
"""Each VM's disks: on which of its host's SRs, and how large."""
GUEST = {"writes": 120, "reads": 0.3, "fill": 0.4}


def tell():
    """Run the whole story. Returns whether every verdict held."""
    with contextlib.ExitStack() as stack:
        screen.chapter("Two pools start: A with the hosts a1 and a2, B with b1; two SRs each")
        lab = stack.enter_context(Lab())
        for host in lab.hosts:
            host.at_switch(at_switch.script(lab))
            screen.say(
                "host %s of pool %s: xapi at https://%s:%d"
                % (host.name, host.name[0].upper(), host.address, host.https_port)
            )
        a, b = lab.pool("A"), lab.pool("B")

        web = _start(a, "web", "a1")
        holds = Move(
            lab,
            "web moves from pool A to pool B: its disks, and then itself",
            web,
            a,
            "a1",
            b,
            "b1",
            sr="fast",
            vif_network="guests",
        ).run()
        holds = (
            holds
            and Move(
                lab,
                "web's disks move to another SR of the same host, b1",
                _found(b, "web"),
                b,
                "b1",
                b,
                "b1",
                sr="big",
            ).run()
        )
        if holds:
            mail = _start(a, "mail", "a1")
            holds = Move(
                lab, "mail moves from a1 to a2, in pool A", mail, a, "a1", a, "a2", sr="fast"
            ).run()
        screen.chapter("The pools stop")
    screen.say("every process of the lab has ended, and its directory is gone")
    return holds


def _start(pool, name, host):
    screen.chapter(
        "VM %s, with %d disks, starts on %s; it never stops writing, and checking what it wrote"
        % (name, len(DISKS), host)
    )
    vm = pool.create_vm(name, [(pool.sr(host, sr), size) for sr, size in DISKS], GUEST)
    uuid = pool.start_vm(vm, host)
    status = pool.host(host).guest(uuid).status()
    screen.say(
        "%d disks, %d MiB, of which it has filled %d%%; %d writes acknowledged so far"
        % (
            len(DISKS),
            sum(size for _, size in DISKS) // MIB,
            100 * GUEST["fill"],
            status["writes_acknowledged"],
        )
    )
    return vm


def _found(pool, name):
    return pool.xapi.VM.get_by_name_label(name)[0]
