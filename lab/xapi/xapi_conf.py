# SPDX-License-Identifier: LGPL-2.1-only
"""/etc/xapi.conf and /etc/xapi.conf.d of a host: `key=value` a line; of what is given twice the
last counts (xcp_service.ml)."""

import os
import re

BASE = "/etc/xapi.conf"
FRAGMENTS = "/etc/xapi.conf.d"

_LINE = re.compile(r"^([^=\s]+)\s*=\s*(.*?)\s*$")


def read(root):
    """The settings of the host with this root: those of the file, then those of each fragment, in
    order of their names."""
    paths = [root + BASE] if os.path.exists(root + BASE) else []
    if os.path.isdir(root + FRAGMENTS):
        paths += [
            os.path.join(root + FRAGMENTS, name) for name in sorted(os.listdir(root + FRAGMENTS))
        ]
    settings = {}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for line in file:
                match = _LINE.match(line.split("#", 1)[0])
                if match:
                    settings[match.group(1)] = match.group(2)
    return settings


def accepts(root, driver):
    """Whether this host's xapi may have the driver: `sm-plugins` names it, whatever the case of its
    letters, or has a `*`.

    One list replaces the other as a whole. Without any no driver is accepted (xapi_globs.ml,
    accept_sm_plugin).
    """
    listed = read(root).get("sm-plugins", "").split()
    return "*" in listed or driver.lower() in [name.lower() for name in listed]
