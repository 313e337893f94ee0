# SPDX-License-Identifier: LGPL-2.1-only
"""The `sxm` command: runs on an administrator's machine, and is not in the package for dom0."""
