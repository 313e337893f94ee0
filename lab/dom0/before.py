"""Puts a module of the lab in front of the Python processes of a host, and takes it away again."""
import os
import shutil

from lab.dom0.scripts import SITE_PACKAGES

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = "lab_before."
"""How the name of a module begins while it runs there."""


def install(root, path):
    """Have each Python process that starts on the host at `root` import the module at `path` first."""
    site = root + SITE_PACKAGES
    os.makedirs(site + "/lab_before", exist_ok=True)
    shutil.copyfile(os.path.abspath(path), os.path.join(site, "lab_before", os.path.basename(path)))
    shutil.copyfile(os.path.join(HERE, "sitecustomize.py"), site + "/sitecustomize.py")


def remove(root, path):
    """Processes that start from now on do without it."""
    installed = os.path.join(root + SITE_PACKAGES, "lab_before", os.path.basename(path))
    if os.path.exists(installed):
        os.unlink(installed)
