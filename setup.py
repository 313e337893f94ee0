# SPDX-License-Identifier: LGPL-2.1-only
"""The library and the `sxm` command, for an administrator's machine. dom0 gets an RPM instead
(rpm/)."""

import re

from setuptools import find_packages, setup

with open("storage_motion/__init__.py") as source:
    VERSION = re.search(r'^__version__ = "(.+)"', source.read(), re.M).group(1)

setup(
    name="storage-motion",
    version=VERSION,
    description="Moves running VMs' disks between storage repositories and pools of Xen hosts",
    python_requires=">=3.6",
    packages=find_packages(include=("storage_motion", "storage_motion.*")),
    install_requires=["XenAPI", "lxml"],
    extras_require={
        "cli": ["rich", "typer>=0.15,<1", "keyring", "tomli; python_version < '3.11'"]
        + ["jinja2>=3.1,<4", "matplotlib>=3.9,<4"]  # of the report
    },
    package_data={"storage_motion.cli.report": ["*.html"]},
    entry_points={"console_scripts": ["sxm = storage_motion.cli.start:start [cli]"]},
)
