"""The drivers, one module for each type of SR. LVM, EXT, NFS, iSCSI and FC go beside FileSR."""
