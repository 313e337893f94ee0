# SPDX-License-Identifier: LGPL-2.1-only
"""The fixtures `home` and `sxm` for all tests of the command."""

from cli_world import home, sxm  # noqa: F401
