# SPDX-License-Identifier: LGPL-2.1-only
"""A migration on its way through its phases: the worker that drives it, and what follows when it is
interrupted."""
