# SPDX-License-Identifier: LGPL-2.1-only
"""The drivers, one module for each type of SR. LVM, EXT, NFS, iSCSI and FC go beside FileSR."""
