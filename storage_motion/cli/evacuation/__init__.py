# SPDX-License-Identifier: LGPL-2.1-only
"""Moving many VMs with one command: what moves, in which order, how far it is, and what it came
to. On an administrator's machine; the migrations themselves run in dom0, and go on without it."""
