# SPDX-License-Identifier: LGPL-2.1-only
"""The types of SR from and to which a disk can be moved. docs/development.md has the steps for a
new one."""

# Type of an SR whose disks can be mirrored -> its stock driver: the module, and the class in it,
# which has the same name. The first that is there: XCP-ng has renamed those on LVM since May 2026
# (docs/facts/xcp-ng-8.3.md).
DRIVERS_OF_TYPES = {
    "ext": ("EXTSR",),
    "file": ("FileSR",),
    "lvm": ("LVMSR", "LVHDSR"),
    "lvmohba": ("LVMoHBASR", "LVHDoHBASR"),
    "lvmoiscsi": ("LVMoISCSISR", "LVHDoISCSISR"),
    "nfs": ("NFSSR",),
    "smb": ("SMBSR",),
    "xfs": ("XFSSR",),
    "zfs": ("ZFSSR",),
}
