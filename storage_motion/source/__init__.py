# SPDX-License-Identifier: LGPL-2.1-only
"""The mover, at the source: mirrored writes and the copy of one disk on their way to the
destination."""
