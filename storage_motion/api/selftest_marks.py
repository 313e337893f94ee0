# SPDX-License-Identifier: LGPL-2.1-only
"""By what a selftest knows its own: keys in other_config, each with the selftest's id. `sxm` and
the plugin both go by them.

TESTED   on the VM that it may move: its own, or the one that its user named
MADE     on the VM and the disks that it made, and that its end destroys
MADE_VM  on the VM that it made: the VM's own UUID. Who clones that VM copies the marks, and has
         another UUID: a clone is its user's.
"""

import re

TESTED, MADE, MADE_VM = "sxm_selftest", "sxm_selftest_made", "sxm_selftest_vm"
ID = re.compile(r"[0-9a-f]{8}\Z")
