# SPDX-License-Identifier: LGPL-2.1-only
"""Each code that a user may read has its place in the documentation."""

import os
import re

REPOSITORY = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
PAGE = os.path.join(REPOSITORY, "docs", "operations.md")
ENVIRONMENT = {"SXM_ROOT", "SXM_SERVER", "SXM_PASSWORD", "SXM_REMOTE_PASSWORD"}
CODE = re.compile(r'"(SXM_[A-Z_]+)"')


def codes():
    """All that the product names, wherever it does."""
    found = set()
    for top in ("storage_motion", "drivers", "plugins"):
        for directory, _, names in os.walk(os.path.join(REPOSITORY, top)):
            for name in names:
                if name.endswith(".py"):
                    with open(os.path.join(directory, name), encoding="utf-8") as source:
                        found.update(CODE.findall(source.read()))
    return found - ENVIRONMENT


def test_each_code_is_documented_with_what_to_do():
    with open(PAGE, encoding="utf-8") as page:
        told = [line for line in page if line.startswith("| ") or "`SXM_" in line]
    missing = sorted(code for code in codes() if not any("`%s`" % code in line for line in told))
    assert len(codes()) > 45 and missing == []
