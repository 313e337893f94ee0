"""What MirrorSR does with a VDI on this host, through the storage manager's own classes and tap-ctl.

`mirror`: a disk in use. `copy_source`: a frozen one, to be read. `destination`: one that receives.
To be imported only where sm is installed.
"""
