# SPDX-License-Identifier: LGPL-2.1-only
"""The paths and programs of dom0: tap-ctl, the SM drivers, image formats, detached processes."""
