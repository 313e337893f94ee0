# SPDX-License-Identifier: LGPL-2.1-only
"""The report of a migration, or of several: one page that needs nothing beside it, and its JSON."""
