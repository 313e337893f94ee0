# SPDX-License-Identifier: LGPL-2.1-only
"""The receiver, at the destination: the disks of one migration, filled by their movers."""
