# SPDX-License-Identifier: LGPL-2.1-only
"""What every driver of the storage manager stands on: errors, locks, processes."""
