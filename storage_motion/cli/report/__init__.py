# SPDX-License-Identifier: LGPL-2.1-only
"""The report of a migration, or of several: one page that needs nothing beside it, and its JSON."""

import logging

# It warns of a cache of its own that it cannot keep, as on a full disk or in a home without one.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
