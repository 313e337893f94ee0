# SPDX-License-Identifier: LGPL-2.1-only
"""`python -m lab.pools try|up|down|status [--dir D]`: two pools on this machine, to play with.

`try` is for `sxm`: it starts two VMs, too, and prints what to type. `up` has no VM. Both print
where things are and leave them running; `down` ends them; `clean` ends every lab of this user whose
process has gone.
"""

import argparse
import glob
import os
import sys
import tempfile

from lab.pools import to_try
from lab.pools.lab import Lab
from lab.pools.releases import DEFAULT, RELEASES


def describe(lab):
    """Print the pools, how to log in, and what runs."""
    for pool in lab.pools:
        print(
            "pool %s: by plain HTTP, for an xe of yours: -s %s -p %d -u root -pw %s"
            % (pool.name, pool.master.address, pool.master.http_port, pool.password)
        )
        for host in pool.hosts:
            daemons = [
                "%s %s"
                % (
                    daemon,
                    "runs" if lab.daemons.alive("%s/%s" % (host.name, daemon)) else "is down",
                )
                for daemon in ("xapi", "xenopsd")
            ]
            print(
                "  host %s %s at %s: %s; dom0 is %s"
                % (host.name, host.uuid, host.address, ", ".join(daemons), host.root)
            )
        for record in pool.xapi.SR.get_all_records().values():
            print("  SR %s %s (%s)" % (record["name_label"], record["uuid"], record["type"]))
        for record in pool.xapi.VM.get_all_records().values():
            if not record["is_control_domain"] and not record["is_a_template"]:
                print(
                    "  VM %s %s %s" % (record["name_label"], record["uuid"], record["power_state"])
                )


def clean():
    """End the labs of this user in the usual places, such as a killed test or demo leaves."""
    for state in glob.glob(os.path.join(tempfile.gettempdir(), "sxm-*", "lab.json")):
        if os.stat(state).st_uid == os.getuid():
            lab = Lab.found(os.path.dirname(state))
            if lab.owner:
                print(
                    "the lab in %s belongs to process %d, which runs" % (lab.directory, lab.owner)
                )
            else:
                print("ending the lab in %s" % lab.directory)
                lab.down()


def main():
    parser = argparse.ArgumentParser(prog="python -m lab.pools", description=__doc__)
    parser.add_argument("command", choices=("try", "up", "down", "status", "clean"))
    parser.add_argument(
        "--dir",
        default=os.path.join(tempfile.gettempdir(), "sxm-lab"),
        help="where the lab lives (no '_' in it)",
    )
    parser.add_argument(
        "--release", default=DEFAULT, choices=sorted(RELEASES), help="whose storage dom0 has"
    )
    arguments = parser.parse_args()
    here = os.path.exists(os.path.join(arguments.dir, "lab.json"))
    if arguments.command in ("try", "up") and here:
        parser.error("a lab is there already: %s; `down` ends it" % arguments.dir)
    if arguments.command in ("down", "status") and not here:
        parser.error("there is no lab in %s" % arguments.dir)
    if arguments.command == "try":
        lab = Lab(to_try.PLAN, directory=arguments.dir, release=arguments.release)
        lab.up()
        to_try.furnish(lab)
        home = os.path.join(lab.directory, "config")
        to_try.configure(lab.pools, home)
        describe(lab)
        print("\nOnce `sxm` is installed (docs/first-migration.md, step 1), it knows both pools,")
        print("and their passwords, in a shell in which you have typed\n")
        print("    export XDG_CONFIG_HOME=%s\n" % home)
        print("`make lab-down` ends it all.")
    elif arguments.command == "up":
        lab = Lab(directory=arguments.dir, release=arguments.release)
        lab.up()
        describe(lab)
    elif arguments.command == "status":
        describe(Lab.found(arguments.dir))
    elif arguments.command == "clean":
        clean()
    else:
        for stray in Lab.found(arguments.dir).down():
            print("had to end: %s" % stray)
        print("the lab in %s is ended" % arguments.dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
