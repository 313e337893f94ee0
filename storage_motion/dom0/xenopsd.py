# SPDX-License-Identifier: LGPL-2.1-only
"""What xenopsd keeps of a VM in files of its own, which are there whatever xapi and its database
say.

/var/run/nonpersistent/xenopsd/<backend>/VM/<id>/vbd.<device>, the JSON of a Vbd.t
(ocaml/xenopsd/lib/xenops_utils.ml, FileFS; xenops_server.ml, VBD_DB; xc/xenops_xc_main.ml). The
form of what is in them is xenopsd's own affair, so only the locator is looked for.
"""

import glob
import os
import re
from typing import Optional, Set

from storage_motion.dom0 import root

FILES = "/run/nonpersistent/xenopsd/*/VM/%s"
LOCATOR = re.compile(r'"VDI"\s*,\s*"([^"]+)"')
MAX_BYTES = 1024 * 1024


def disks(vm: str) -> Optional[Set[str]]:
    """The locators ("SR uuid/location") of the disks that the VM (its id, a UUID) has, or is about
    to get, on this host: a set.

    None if that cannot be seen: this xenopsd keeps no such files, or they are not what they
    were."""
    directories = glob.glob(root.path(FILES % vm))
    if not directories:
        return None
    found: Set[str] = set()
    for path in glob.glob(os.path.join(directories[0], "vbd.*")):
        try:
            with open(path, encoding="utf-8") as source:
                text = source.read(MAX_BYTES)
        except (OSError, ValueError):
            return None
        locators = LOCATOR.findall(text.replace("\\/", "/"))
        if not locators and '"VDI"' in text:
            return None
        found.update(locators)
    return found
