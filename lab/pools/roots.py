# SPDX-License-Identifier: LGPL-2.1-only
"""Builds the root directory of one host: dom0's stand-ins, and the product, installed as on a real
host."""

import json
import os
import sys

from lab.blktap import install as blktap
from lab.dom0 import scripts, systemd, vhd_inside
from lab.sm import install as sm

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DIRECTORIES = (
    "etc/xapi.d/plugins",
    "opt/xensource/sm",
    "usr/bin",
    "usr/sbin",
    "usr/lib/python3/site-packages",
    "var/lib/xcp",
    "var/lib/sxm",
    "var/lock/sm",
    "var/log",
    "run/blktap-control",
    "run/sr-mount",
    "run/systemd/system",
    "dev/sm/phy",
)
PRIVATE = ("run/sxm", "run/blktap-control")

DATABASE = "[/var/lib/xcp/state.db]\nmode:no_limit\nformat:xml\navailable_this_boot:true\n"

SCRIPTS = {"plugins": "/etc/xapi.d/plugins", "xapi-hooks": "/etc/xapi.d"}
"""The product's directories of scripts, and where they go."""
SR_TYPES = "ext nfs iscsi lvmoiscsi dummy file hba rawhba udev iso lvm lvmohba lvmofcoe shm smb cephfs glusterfs xfs zfs largeblock"  # noqa: E501
"""The types of SR that xapi accepts on XCP-ng 8.3."""
SAFE_FOR_QCOW2 = "/etc/sxm/qcow2-blktap"
RPM = """#!/bin/sh
# rpm, which knows one package
if [ "$1 $2 $3 $4" = "-q --qf %%{VERSION}-%%{RELEASE} blktap" ]; then
    printf %%s '%s'
else
    echo "package $4 is not installed"
    exit 1
fi
"""
UNITS = ("sxm.slice", "sxm-worker@.service", "sxm-recover.service")
"""The product's units. On a host of the lab a worker that dies stays dead until a test says
otherwise (lab.dom0.systemd)."""
DRIVER = ("drivers/MirrorSR.py", "/opt/xensource/sm/MirrorSR.py")
DRIVER_MODULE = ("drivers/mirror_lib.py", "/opt/xensource/sm/mirror_lib.py")


XAPI_CONF = (
    """# Of xapi.conf on XCP-ng 8.3 only what the lab's xapi reads
sm-plugins=%s
"""
    % SR_TYPES
)


def build(root, config, python, release):
    """Make the host's root. `config`: lab-xapi.json's content; `python`: dom0's interpreter;
    `release`: one of lab.pools.releases."""
    make_directories(root)
    scripts.install_text(json.dumps(config, indent=1), root, "/etc/lab-xapi.json")
    os.chmod(root + "/etc/lab-xapi.json", 0o600)  # the pool's secret and the password are in it
    inventory = "INSTALLATION_UUID='%s'\nCONTROL_DOMAIN_UUID='%s'\n" % (
        config["host"]["uuid"],
        config["host"]["control_domain"],
    )
    scripts.install_text(inventory, root, "/etc/xensource-inventory")
    scripts.install_text(DATABASE, root, "/etc/xensource/db.conf")
    scripts.install_text(XAPI_CONF, root, "/etc/xapi.conf")
    scripts.write_interpreter(root, python)
    scripts.install_modules(root)
    blktap.install(root, release.blktap, release.qcow2)
    scripts.install_script(RPM % release.version, root, "/usr/bin/rpm")
    if release.qcow2 is None:  # then what the lab calls qcow2 stands for VHD
        scripts.install_text(release.version + "\n", root, SAFE_FOR_QCOW2)
    else:
        vhd_inside.install(root)
    systemd.install(root)
    sm.install(root, release.sm, release.lvm)
    _install_xe(root)
    install_product(root)


def make_directories(root):
    """Make the directories of a host that are missing: all of them, or those that a boot finds
    empty."""
    for directory in PRIVATE:
        os.makedirs(os.path.join(root, directory), mode=0o700, exist_ok=True)
    for directory in DIRECTORIES:
        os.makedirs(os.path.join(root, directory), exist_ok=True)


def install_product(root):
    """Install the product from this checkout, as its package does."""
    os.symlink(
        os.path.join(REPOSITORY, "storage_motion"),
        root + "/usr/lib/python3/site-packages/storage_motion",
    )
    scripts.install_script(_read(DRIVER[0]), root, DRIVER[1])
    os.symlink(os.path.basename(DRIVER[1]), root + DRIVER[1][: -len(".py")])
    scripts.install_text(_read(DRIVER_MODULE[0]), root, DRIVER_MODULE[1])
    for unit in UNITS:
        systemd.install_unit(_read("rpm/" + unit), root, unit)
    systemd.hold(root)
    for source, target in SCRIPTS.items():
        for directory, _, names in os.walk(os.path.join(REPOSITORY, source)):
            for name in names:
                where = os.path.relpath(
                    os.path.join(directory, name), os.path.join(REPOSITORY, source)
                )
                if not name.startswith(".") and "__pycache__" not in where:
                    scripts.install_script(
                        _read(os.path.join(source, where)), root, os.path.join(target, where)
                    )


def _install_xe(root):
    """xe in dom0 speaks to the host's own unix socket. The lab's needs this checkout and a Python
    of its own."""
    text = '#!/bin/sh\nSXM_ROOT=%s PYTHONPATH=%s exec %s -m lab.xe "$@"\n' % (
        root,
        REPOSITORY,
        sys.executable,
    )
    os.chmod(scripts.install_text(text, root, "/usr/bin/xe"), 0o755)


def _read(path):
    with open(os.path.join(REPOSITORY, path)) as stream:
        return stream.read()
