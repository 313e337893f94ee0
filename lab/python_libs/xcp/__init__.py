# SPDX-License-Identifier: LGPL-2.1-only
"""Stands in for dom0's python3-xcp-libs (3.0.10 on XCP-ng 8.3, required there by xapi-core), which
is on no registry: what the product uses of it, as strict (docs/checked-by-hand.md)."""
