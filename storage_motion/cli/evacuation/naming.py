# SPDX-License-Identifier: LGPL-2.1-only
"""What the state file of an evacuation is called where the user says nothing: the same command,
run again, finds it."""

import hashlib
import json
import re
from typing import Any, Dict

NOT_IN_NAME = re.compile(r"[^A-Za-z0-9.-]+")
LONGEST = 40  # characters of what a person recognizes


def default(title: str, request: Dict[str, Any]) -> str:
    """`title`: in words, such as the SR's name. `request`: all that makes it another evacuation:
    what, and where to; not how many at a time."""
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:8]
    words = NOT_IN_NAME.sub("-", title).strip("-.")[:LONGEST]
    return "%s-%s" % (words, digest) if words else digest
