# SPDX-License-Identifier: LGPL-2.1-only
"""What MirrorSR does with a VDI on this host, through the storage manager's own classes and
tap-ctl.

`mirrored`: a disk in use. `copied`: a frozen one, to be read. `filled`: one that receives.
To be imported only where sm is installed.
"""
