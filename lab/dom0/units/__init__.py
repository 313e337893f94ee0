# SPDX-License-Identifier: LGPL-2.1-only
"""What systemd-run and systemctl do on a host of the lab: transient services, and services from
unit files, as systemd 219 has them.

As strict as systemd 219 and 252, whichever is the stricter, in what the product may meet:

- systemd-run answers before the process is there; a unit of that name that is loaded, be it that it
  has failed, or that some process of it is left, is not started again
  (`transient_unit_from_message`: load_state has to be not-found);
- options and properties that 219 does not have are refused;
- a unit inherits nothing: its environment is PATH and INVOCATION_ID, and what the unit says;
- when its main process has ended, all others that it has begun are ended, unless KillMode=process;
- one that ends by an exit status or a signal that is no clean one stays loaded, as failed, until
  `reset-failed`; any other is forgotten;
- Restart=on-abnormal and on-failure, RestartSec, at most five starts within ten seconds; `%i` is
  the instance as it is written.

A unit's state is a file in ROOT/run/systemd/units, kept by one process for each unit that runs,
which is its parent.

    programs.py   the command lines of both
    files.py      unit files, and what they say of a service
    states.py     what is kept of a unit that is loaded
    keeper.py     starts a unit, sees to it, and says how it has ended
    processes.py  the processes that a unit has begun

Imported as `lab.dom0.units` and, by the programs of a host, as `units`: so it imports its own by
relative names.
"""
