# SPDX-License-Identifier: LGPL-2.1-only
"""Installs the lab's storage manager on a host of the lab, in either of the two layouts that exist.

`package`: the package `sm` in site-packages, and driver scripts in /opt/xensource/sm (upstream).
`flat`: all modules in /opt/xensource/sm, each driver its own script (XenServer 8, XCP-ng 8.3).
XCP-ng has renamed the modules and classes on LVM since QCOW2 came: LVMSR, LVMoISCSISR, LVMoHBASR.
"""

import os
import re
import shutil

from lab.dom0 import scripts

HERE = os.path.dirname(os.path.abspath(__file__))
DRIVERS = "/opt/xensource/sm"
PLUGINS = "/etc/xapi.d/plugins"
_NOT_INSTALLED = ("install.py",)
_XCP_NG = ("cowutil.py", "online.py")
"""Modules that only XCP-ng's sm has, since QCOW2 came."""
COLLECTOR = "cleanup.py"
"""A program of /opt/xensource/sm besides the drivers, in either layout."""
_IMPORT = re.compile(r"^(\s*)from sm((?:\.\w+)*) import (.+)$", re.MULTILINE)
_FOLDERS = ("core", "drivers")
_LVHD = re.compile(r"\bLVHD(?=SR\b|oISCSISR\b|oHBASR\b)")
"""In the names of the modules and classes on LVM. xapi execs a driver by the name of the SR type,
LVM...SR in each release."""
_LVM = ("vgcreate", "lvcreate")
NEEDS = {
    "EXTSR": _LVM + ("mkfs.ext4",),
    "NFSSR": ("mount.nfs",),
    "LVMSR": _LVM,
    "LVMoISCSISR": _LVM + ("iscsiadm",),
    "LVMoHBASR": _LVM,
}
"""The programs without which a driver is not installed: most machines have no storage for it."""


def install(root, layout="package", lvm="LVHD"):
    """Install on the host at `root`: the modules, the drivers and their plugins, and XenAPIPlugin.

    `lvm`: what the modules and classes on LVM are called, "LVHD" or (flat only) "LVM".
    """
    scripts.install_modules(root)
    if layout == "flat":
        _install_flat(root, lvm)
    else:
        _install_package(root)
    for name in sorted(os.listdir(os.path.join(HERE, "xapi_plugins"))):
        text = _read("xapi_plugins", name)
        scripts.install_script(
            flatten(text) if layout == "flat" else text, root, "%s/%s" % (PLUGINS, name)
        )


def add_driver(root, name):
    """Have the host at `root` (flat only) one more driver, of those that no other test needs: each
    costs every start of a xapi a process. Its xapi knows it when it has been started again."""
    _link(name + ".py", "%s%s/%s" % (root, DRIVERS, name))


def drivers():
    """The drivers that this machine has the programs for, by the name that xapi execs them by."""
    return [
        name
        for name in sorted(os.listdir(os.path.join(HERE, "driver_scripts")))
        if name != COLLECTOR and all(shutil.which(program) for program in NEEDS.get(name, ()))
    ]


def _modules(left_out=_XCP_NG):
    """Each module but some, as its path in the package."""
    for folder in ("",) + _FOLDERS:
        for name in sorted(os.listdir(os.path.join(HERE, folder))):
            if name.endswith(".py") and name not in _NOT_INSTALLED + left_out:
                yield os.path.join(folder, name)


def _install_package(root):
    for name in _modules():
        scripts.install_text(_read(name), root, "%s/sm/%s" % (scripts.SITE_PACKAGES, name))
    for name in drivers() + [COLLECTOR]:
        scripts.install_script(_read("driver_scripts", name), root, "%s/%s" % (DRIVERS, name))


def _install_flat(root, lvm):
    for name in _modules(() if lvm == "LVM" else _XCP_NG):
        base = _LVHD.sub(lvm, os.path.basename(name)[: -len(".py")]) + ".py"
        if base == "__init__.py":
            continue
        target = "%s/%s" % (DRIVERS, base)
        if name.startswith("drivers") or base == COLLECTOR:
            scripts.install_script(
                "#!/usr/bin/python3\n" + _LVHD.sub(lvm, flatten(_read(name))), root, target
            )
        else:
            scripts.install_text(flatten(_read(name)), root, target)
    for name in drivers():
        module = name if not name.startswith("LVM") else lvm + name[len("LVM") :]
        _link(module + ".py", "%s%s/%s" % (root, DRIVERS, name))


def flatten(text):
    """The source `text` of a module with its imports of the package made imports of flat
    modules."""

    def flat(match):
        indent, path, names = match.groups()
        module = [part for part in path.split(".") if part and part not in _FOLDERS]
        if not module:
            return "%simport %s" % (indent, names)
        return "%sfrom %s import %s" % (indent, module[-1], names)

    return _IMPORT.sub(flat, text)


def _link(target, path):
    if os.path.lexists(path):
        os.unlink(path)
    os.symlink(target, path)


def _read(*names):
    with open(os.path.join(HERE, *names)) as source:
        return source.read()
