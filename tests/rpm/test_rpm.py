# SPDX-License-Identifier: LGPL-2.1-only
"""The package: built, installed into an empty root, run from there on a host of the lab, and
removed without a trace."""

import json
import os
import shutil
import subprocess
import sys
import xmlrpc.client

import pytest

import storage_motion
from lab.dom0 import scripts
from lab.pools.lab import Lab
from lab.pools.topology import PoolPlan
from storage_motion.journal import journal
from storage_motion.journal.journal import Journal

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SITES = ("/usr/lib/python3.6/site-packages", "/usr/lib/python3.11/site-packages")
DATABASE = "/var/lib/rpm"
# a migration and its VM
NAMING, NAMED = "11111111-2222-3333-4444-555555555555", "99999999-2222-3333-4444-555555555555"
HOOKS = [
    "/etc/xapi.d/%s/10-sxm" % name
    for name in (
        "vm-pre-start",
        "vm-pre-resume",
        "vm-pre-shutdown",
        "vm-pre-reboot",
        "vm-post-migrate",
    )
]


def rpm(root, *arguments, fails=False):
    """rpm in `root`, which needs root's rights for its chroot: an ordinary user has those in a
    namespace of its own. What it says."""
    command = ["rpm", "--root", root, "--dbpath", DATABASE] + list(arguments)
    if os.geteuid() != 0:
        command = ["unshare", "--user", "--map-root-user"] + command
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    assert (done.returncode != 0) == fails, done.stdout.decode()
    return done.stdout.decode()


def install(root, package):
    """Install the package alone: what it requires of dom0 is checked by its own test."""
    rpm(root, "--install", "--nodeps", package)


def tree(root):
    """All paths below `root` but those of the package database and of Python's caches."""
    found = set()
    for directory, directories, names in os.walk(root):
        where = "/" + os.path.relpath(directory, root)
        if where.startswith(DATABASE) or "__pycache__" in where:
            directories[:] = []
            continue
        found.update(os.path.join(where, name).replace("/./", "/") for name in names + directories)
    return {
        path
        for path in found
        if "__pycache__" not in path
        and not path.startswith(DATABASE)
        and path not in ("/var", "/var/lib")
    }


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    top = tmp_path_factory.mktemp("rpmbuild")
    return built(REPOSITORY, top)


def packaged_version(package):
    """What the product in the package says of itself."""
    return (
        subprocess.run(
            ["rpm", "-qp", "--queryformat", "%{VERSION}-%{RELEASE}", package],
            stdout=subprocess.PIPE,
            check=True,
        )
        .stdout.decode()
        .strip()
    )


def built(sources, top):
    """The package that the checkout `sources` gives, built below `top`."""
    done = subprocess.run(
        [os.path.join(sources, "rpm/build.sh"), str(top)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def test_builds_are_told_apart(tmp_path):
    """A change of one line, committed or not, is another build; without one it is the same."""
    sources = tmp_path / "sources"
    for name in ("storage_motion", "plugins", "drivers", "xapi-hooks", "rpm"):
        shutil.copytree(
            os.path.join(REPOSITORY, name),
            str(sources / name),
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    shutil.copy(os.path.join(REPOSITORY, "LICENSE"), str(sources))
    first = packaged_version(built(str(sources), tmp_path / "first"))
    assert packaged_version(built(str(sources), tmp_path / "second")) == first
    with open(str(sources / "drivers/mirror_lib.py"), "a") as driver:
        driver.write("# another\n")
    third = packaged_version(built(str(sources), tmp_path / "third"))
    assert third != first
    assert third.startswith(storage_motion.__version__ + "-20")


def test_one_version(package):
    asked = subprocess.run(
        ["rpm", "-qp", "--queryformat", "%{VERSION}", package], stdout=subprocess.PIPE, check=True
    )
    assert asked.stdout.decode() == storage_motion.__version__
    asked = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        check=True,
    )
    assert asked.stdout.decode().split()[-1] == storage_motion.__version__


def test_it_holds_the_whole_library_and_nothing_of_the_workstation(package):
    files = set(
        subprocess.run(["rpm", "-qlp", package], stdout=subprocess.PIPE, check=True)
        .stdout.decode()
        .split()
    )
    modules = set()
    for directory, _, names in os.walk(os.path.join(REPOSITORY, "storage_motion")):
        modules.update(
            os.path.relpath(os.path.join(directory, name), REPOSITORY)
            for name in names
            if name.endswith(".py")
        )
    for site in SITES:
        packaged = {
            path[len(site) + 1 :]
            for path in files
            if path.startswith(site) and path.endswith(".py")
        }
        assert packaged == {
            module for module in modules if not module.startswith("storage_motion/cli/")
        }
    assert {
        "/etc/xapi.d/plugins/sxm.py",
        "/opt/xensource/sm/MirrorSR",
        "/opt/xensource/sm/mirror_lib.py",
        "/usr/lib/systemd/system/sxm.slice",
        "/usr/lib/systemd/system/sxm-recover.service",
        "/usr/lib/systemd/system/sxm-worker@.service",
    } <= files
    (license_,) = [path for path in files if path.endswith("LICENSE")]
    assert (
        subprocess.run(["rpm", "-qp", "--licensefiles", package], stdout=subprocess.PIPE)
        .stdout.decode()
        .strip()
        == license_
    )
    assert sorted(HOOKS) == sorted(path for path in files if path.startswith("/etc/xapi.d/vm-"))
    assert (
        subprocess.run(["rpm", "-qp", "--qf", "%{ARCH}", package], stdout=subprocess.PIPE).stdout
        == b"noarch"
    )


def test_an_empty_root_is_empty_again_after_it_is_removed(package, tmp_path):
    root = str(tmp_path / "root")
    os.makedirs(root + DATABASE)
    install(root, package)
    for script in ["/etc/xapi.d/plugins/sxm.py"] + HOOKS:
        assert os.access(root + script, os.X_OK) and not os.path.islink(root + script)
    assert os.readlink(root + "/opt/xensource/sm/MirrorSR") == "MirrorSR.py"
    assert os.stat(root + "/var/lib/sxm").st_mode & 0o777 == 0o700
    rpm(root, "--erase", "storage-xenmotion")
    left = {path for path in tree(root) if not os.path.isdir(root + path)}
    assert left == set()
    assert not os.path.exists(root + "/var/lib/sxm") and not os.path.exists(
        root + SITES[0] + "/storage_motion"
    )


@pytest.fixture
def installed(package, tmp_path, monkeypatch):
    """An empty root with the package in it."""
    root = str(tmp_path / "root")
    os.makedirs(root + DATABASE)
    install(root, package)
    monkeypatch.setenv("SXM_ROOT", root)
    return root


@pytest.mark.parametrize("side", [journal.SOURCE, journal.RECEIVING], ids=["source", "destination"])
def test_it_is_neither_upgraded_nor_removed_while_a_migration_runs(package, installed, side):
    ended = Journal.create(NAMED, disks={}, left=[])
    ended.write(state=journal.SUCCEEDED)  # one that has ended is no hindrance
    running = Journal.create(NAMING, side, disks={})
    for arguments in (
        ["--upgrade", "--replacepkgs", "--nodeps", package],
        ["--erase", "storage-xenmotion"],
    ):
        said = rpm(installed, *arguments, fails=True)
        assert NAMING in said and NAMED not in said and "fn=recover" in said
        assert os.path.exists(installed + "/etc/xapi.d/plugins/sxm.py") and os.path.exists(
            running.path
        )
    running.remove()
    rpm(installed, "--upgrade", "--replacepkgs", "--nodeps", package)
    assert os.path.exists(ended.path), "an upgrade keeps what is known"
    rpm(installed, "--erase", "storage-xenmotion")
    assert {path for path in tree(installed) if not os.path.isdir(installed + path)} == set()


def test_it_is_not_removed_while_something_is_left_to_clear_away(package, installed):
    ended = Journal.create(NAMING, disks={}, left=["the source's disk"])
    ended.write(state=journal.FAILED)
    assert NAMING in rpm(installed, "--erase", "storage-xenmotion", fails=True)
    rpm(installed, "--upgrade", "--replacepkgs", "--nodeps", package)
    ended.write(left=[])
    rpm(installed, "--erase", "storage-xenmotion")


def test_what_python_and_migrations_have_added_goes_with_it(installed):
    added = [site + "/storage_motion/switch/__pycache__/gate.cpython-36.pyc" for site in SITES] + [
        "/opt/xensource/sm/__pycache__/MirrorSR.cpython-36.pyc",
        "/opt/xensource/sm/__pycache__/mirror_lib.cpython-311.pyc",
        "/var/lib/sxm/opened-" + NAMED,
        "/var/log/sxm.log",
        "/var/log/sxm.log.1",
        "/var/log/sxm.log-20261126.gz",
    ]
    theirs = "/opt/xensource/sm/__pycache__/FileSR.cpython-36.pyc"
    for path in added + [theirs]:
        os.makedirs(os.path.dirname(installed + path), exist_ok=True)
        open(installed + path, "w").close()
    rpm(installed, "--erase", "storage-xenmotion")
    left = [
        os.path.join(directory, name)
        for directory, _, names in os.walk(installed)
        for name in names
        if DATABASE not in directory
    ]
    assert left == [installed + theirs]
    assert not os.path.exists(installed + "/var/lib/sxm") and not os.path.exists(
        installed + SITES[0] + "/storage_motion"
    )


def _uninstall_checkout(root):
    """Take away the product that the harness has put on a host, so that only the package's is
    there."""
    os.unlink(root + scripts.SITE_PACKAGES + "/storage_motion")
    for path in (
        "/opt/xensource/sm/MirrorSR",
        "/opt/xensource/sm/MirrorSR.py",
        "/opt/xensource/sm/mirror_lib.py",
        "/etc/xapi.d/plugins/sxm.py",
    ) + tuple(HOOKS):
        os.unlink(root + path)
    shutil.rmtree(root + "/var/lib/sxm")


def _use_sites_of_the_package(root):
    """Let the host's Python look where dom0's does: each release of dom0 has one of these two."""
    wrapper = root + "/usr/bin/python3"
    site = SITES[0] if sys.version_info[:2] == (3, 6) else SITES[1]
    with open(wrapper) as stream:
        text = stream.read()
    with open(wrapper, "w") as stream:
        stream.write(text.replace("PYTHONPATH=", "PYTHONPATH=%s%s:" % (root, site), 1))
    # #!/usr/bin/python3 of this machine is not the host's: what rpm installed has to run under the
    # host's, as in dom0.
    for script in ("/etc/xapi.d/plugins/sxm.py", "/opt/xensource/sm/MirrorSR.py"):
        with open(root + script) as stream:
            first, _, rest = stream.read().partition("\n")
        assert first == "#!/usr/bin/python3"
        with open(root + script, "w") as stream:
            stream.write("#!%s\n%s" % (wrapper, rest))
    for script in HOOKS:
        with open(root + script) as stream:
            text = stream.read()
        with open(root + script, "w") as stream:
            stream.write(text.replace("#!/bin/sh\n", "#!/bin/sh\nSXM_ROOT=%s\n" % root, 1))


def test_plugin_and_driver_run_from_it(package):
    with Lab(plan=(PoolPlan("A", ("a1",), False),)) as lab:
        host = lab.host("a1")
        _uninstall_checkout(host.root)
        before = tree(host.root)
        os.makedirs(host.root + DATABASE, exist_ok=True)
        install(host.root, package)
        _use_sites_of_the_package(host.root)

        pool = lab.pool("A")
        assert json.loads(
            pool.xapi.host.call_plugin(pool.host_ref("a1"), "sxm.py", "list", {})
        ) == {"migrations": [], "unreadable": [], "version": packaged_version(package)}

        call = xmlrpc.client.dumps(
            ({"command": "sr_get_driver_info", "device_config": {}, "args": []},),
            "sr_get_driver_info",
        )
        done = subprocess.run(
            [host.root + "/opt/xensource/sm/MirrorSR", call],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=60,
        )
        (info,), _ = xmlrpc.client.loads(done.stdout.decode())
        assert info["name"] and "VDI_MIRROR" in info["capabilities"], done.stderr

        with open(host.root + "/var/lib/sxm/%s.json" % NAMING, "w") as stream:
            stream.write("torn, of VM %s" % NAMED)
        for hook in HOOKS:
            refuses = "vm-pre-start" in hook or "vm-pre-resume" in hook
            for vm, code in ((NAMED, 3 if refuses else 0), (NAMING, 0)):
                done = subprocess.run(
                    [host.root + hook, "-vmuuid", vm, "-reason", "none"],
                    env={"PATH": "/usr/bin:/bin"},
                    stdout=subprocess.PIPE,
                    timeout=60,
                )
                assert (done.returncode, NAMING in done.stdout.decode()) == (code, code == 3), (
                    done.stdout
                )
        os.unlink(host.root + "/var/lib/sxm/%s.json" % NAMING)

        rpm(host.root, "--erase", "storage-xenmotion")
        left = {path for path in tree(host.root) - before if not os.path.isdir(host.root + path)}
        assert {path for path in left if not path.startswith(("/var/log/", "/run/"))} == set()


IMPORTS = """
import ast, os, sys
stdlib = set(sys.stdlib_module_names)
for top in sys.argv[1:]:
    for directory, _, names in os.walk(top):
        for name in names:
            if name.endswith(".py"):
                with open(os.path.join(directory, name)) as source:
                    tree = ast.parse(source.read())
                    for node in ast.walk(tree):  # what is for mypy alone is imported by nobody
                        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
                            node.body = []
                    for node in ast.walk(tree):
                        found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
                            [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
                        for module in found:
                            if module.partition(".")[0] not in stdlib:
                                print(module.partition(".")[0])
"""  # noqa: E501


def test_it_imports_what_it_requires(package):
    """Python's own, XenAPI and XenAPIPlugin of xapi-core, the storage manager, xcp, lxml: each in a
    package that it names."""
    places = [os.path.join(REPOSITORY, name) for name in ("plugins", "drivers", "xapi-hooks")]
    places += [
        entry.path
        for entry in os.scandir(os.path.join(REPOSITORY, "storage_motion"))
        if entry.is_dir() and entry.name not in ("cli", "__pycache__")
    ]
    found = set(
        subprocess.run([sys.executable, "-c", IMPORTS] + places, stdout=subprocess.PIPE, check=True)
        .stdout.decode()
        .split()
    )
    assert found == {"storage_motion", "mirror_lib", "XenAPI", "XenAPIPlugin", "xcp", "lxml"}
    required = subprocess.run(
        ["rpm", "-qp", "--requires", package], stdout=subprocess.PIPE, check=True
    ).stdout.decode()
    assert {
        "python3",
        "python3-xcp-libs",
        "python3-lxml",
        "coreutils",
        "sm",
        "blktap",
        "xapi-core",
        "xenopsd",
        "openssl",
        "systemd",
        "logrotate",
    } <= {line.split()[0] for line in required.splitlines()}
