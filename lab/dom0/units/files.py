# SPDX-License-Identifier: LGPL-2.1-only
"""Unit files: where a unit's is, and what it says of its service."""

import os
import re

PLACES = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system")


def find(root, unit):
    """The path of the unit's file, or of that of its template; None if there is none."""
    names = [unit] + ([re.sub("@.*[.]", "@.", unit)] if "@" in unit else [])
    return next(
        (
            path
            for name in names
            for path in ("%s%s/%s" % (root, place, name) for place in PLACES)
            if os.path.isfile(path)
        ),
        None,
    )


def settings(root, unit):
    """What the unit file and what has been dropped beside it say of its service: KillMode,
    Restart..., argv, environment."""
    path = find(root, unit)
    files = [path]
    for place in reversed(PLACES):
        directory = "%s%s/%s.d" % (root, place, os.path.basename(path))
        if os.path.isdir(directory):
            files += [
                os.path.join(directory, name)
                for name in sorted(os.listdir(directory))
                if name.endswith(".conf")
            ]
    found = {"environment": {}}
    for name in files:
        with open(name) as source:
            for line in source:
                key, equals, value = line.strip().partition("=")
                if key == "Environment":
                    found["environment"].update([value.split("=", 1)])
                elif equals and not key.startswith(("#", ";")):
                    found[key] = value
    instance = re.sub("^.*@|[.]service$", "", unit) if "@" in unit else ""
    found["argv"] = [
        word.replace("%i", instance).replace("%%", "%").replace("$$", "$")
        for word in _words(found["ExecStart"])
    ]
    return found


def _words(text):
    """The words of a command line, of which one may be in quotes."""
    return [quoted or word for quoted, word in re.findall(r"'([^']*)'|(\S+)", text)]
