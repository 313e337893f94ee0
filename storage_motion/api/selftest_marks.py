# SPDX-License-Identifier: LGPL-2.1-only
"""By what a selftest knows its own: keys in other_config, each with the selftest's id. `sxm` and
the plugin both go by them.

TESTED   on the VM that it may move: its own, or the one that its user named
MADE     on the VM and the disks that it made, and that its end destroys
MADE_VM  on the VM that it made: the VM's own UUID. Who clones that VM copies the marks, and has
         another UUID: a clone is its user's.
MADE_VDI the same on a disk. xapi copies other_config and name with VDI.clone, copy and snapshot
         (xapi_vdi.ml). A move brings the mark along as it was, so it says nothing of a disk that
         has been moved: that is known by its VM.
"""

import re
from typing import Any, Dict

TESTED, MADE = "sxm_selftest", "sxm_selftest_made"
MADE_VM, MADE_VDI = "sxm_selftest_vm", "sxm_selftest_vdi"
ID = re.compile(r"[0-9a-f]{8}\Z")
NAME = "sxm selftest %s"  # of the VM and the disks that it made; the selftest's id


def is_original(vdi: Dict[str, Any]) -> bool:
    """Whether a disk without a VM (its record) is the very one that a selftest made, and no copy of
    it that somebody has made, or taken over under a name of his own."""
    marks = vdi["other_config"]
    return (
        ID.match(marks.get(MADE, "")) is not None
        and marks.get(MADE_VDI) == vdi["uuid"]
        and vdi["name_label"] == NAME % marks[MADE]
    )
