# SPDX-License-Identifier: LGPL-2.1-only
"""The storage manager of the lab: upstream's modules and classes, as far as the product meets
them."""
