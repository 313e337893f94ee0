# SPDX-License-Identifier: LGPL-2.1-only
"""Puts dom0's scripts and modules on a host of the lab: exec'ed directly, as dom0 does, by that
host's own Python."""

import os
import shutil

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON_LIBS = os.path.join(os.path.dirname(HERE), "python_libs")
SITE_PACKAGES = "/usr/lib/python3/site-packages"
PYTHON = "/usr/bin/python3"
_PYTHON, _SHELL = "#!" + PYTHON, "#!/bin/sh"


def install_script(text, root, absolute):
    """Write the script `text` to `absolute` of the host at `root`, to be run by that host's
    /usr/bin/python3, or by a shell, which is told what the wrapper of Python tells.

    Raises ValueError if the script would be run by anything else. Returns the path.
    """
    first, _, rest = text.partition("\n")
    if first == _PYTHON:
        first = "#!%s%s" % (root, PYTHON)
    elif first == _SHELL:
        first = "%s\nSXM_ROOT=%s" % (_SHELL, root)
    else:
        raise ValueError(
            "%s begins with %r instead of %s or %s" % (absolute, first, _PYTHON, _SHELL)
        )
    target = install_text("%s\n%s" % (first, rest), root, absolute)
    os.chmod(target, 0o755)
    return target


def install_text(text, root, absolute):
    """Write `text` to `absolute` of the host at `root`. Returns the path."""
    target = root + absolute
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "w") as out:
        out.write(text)
    return target


def install_modules(root):
    """Install what of dom0 belongs to xapi: XenAPIPlugin, what it needs here, the package
    python3-xcp-libs, and the script that tells the firewall."""
    site = root + SITE_PACKAGES
    os.makedirs(site, exist_ok=True)
    for name in ("lab_dom0.py", "XenAPIPlugin.py"):
        shutil.copyfile(os.path.join(HERE, name), os.path.join(site, name))
    os.makedirs(os.path.join(site, "xcp"), exist_ok=True)
    for name in os.listdir(os.path.join(PYTHON_LIBS, "xcp")):
        if name.endswith(".py"):
            shutil.copyfile(os.path.join(PYTHON_LIBS, "xcp", name), os.path.join(site, "xcp", name))
    with open(os.path.join(HERE, "firewall-port")) as stream:
        install_script(stream.read(), root, "/etc/xapi.d/plugins/firewall-port")


def write_interpreter(root, python):
    """Write the /usr/bin/python3 of the host at `root`: `python` (a path), with the host's modules
    and root."""
    os.chmod(install_text(interpreter(root, python), root, PYTHON), 0o755)


def interpreter(root, python):
    """What stands in it."""
    return '#!/bin/sh\nexport SXM_ROOT=%s PYTHONPATH=%s\nexec %s "$@"\n' % (
        root,
        module_path(root),
        python,
    )


def module_path(root):
    """PYTHONPATH on the host at `root`."""
    return "%(root)s%(site)s:%(root)s/opt/xensource/sm" % {"root": root, "site": SITE_PACKAGES}
