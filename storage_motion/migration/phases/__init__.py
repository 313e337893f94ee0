# SPDX-License-Identifier: LGPL-2.1-only
"""What the phases do, and what takes them back; `table` has them all, in their order."""
