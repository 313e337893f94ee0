# SPDX-License-Identifier: LGPL-2.1-only
"""The storage manager (SM): its drivers as we run them, and what MirrorSR does with a VDI."""
