# SPDX-License-Identifier: LGPL-2.1-only
"""Which side may run the VM: the switch of each disk from the source to the destination, and what
proves it."""
