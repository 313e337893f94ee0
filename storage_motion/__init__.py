# SPDX-License-Identifier: LGPL-2.1-only
"""Storage XenMotion: a running VM's disks, and the VM with them, from one SR to another.

Somebody asks (`api`), a plan is made (`plan`), a migration goes through its phases (`migration`),
one switch decides which side may run the VM (`switch`), and bytes move from the `source` to the
`destination`, over one `wire`. `journal` is what a host keeps of that on its own disk, `sm` runs
the storage manager, `xapi` talks to xapi and xenopsd, `dom0` is the rest of the host. Each imports
only what tests/unit/test_tree.py lets it.
"""

# A package says "0.1.0-<its release>" here, so that the hosts tell its builds apart (rpm/build.sh).
__version__ = "0.1.0"
