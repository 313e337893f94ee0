# SPDX-License-Identifier: LGPL-2.1-only
"""UUIDs as xapi has them, and as we give them to migrations."""

import re

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
