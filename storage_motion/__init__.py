"""Storage XenMotion: a running VM's disks, and the VM with them, from one SR to another.

`control` decides, `data` moves bytes, `xapi` talks to xapi, `dom0` runs the host's own programs.
"""
__version__ = "0.1.0"
