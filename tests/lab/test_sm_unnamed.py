# SPDX-License-Identifier: LGPL-2.1-only
"""sr_remove_unnamed of MirrorSR: the image that a killed vdi_create leaves goes, and nothing that
could be anybody's."""

import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from sm_host import SIZE, host  # noqa: F401
from storage_motion.errors import SmFault
from storage_motion.sm import smapi
from tests.eventually import never

# what `qemu-img create` does, once it is told to
MAKES = (
    "import subprocess, sys; sys.stdin.read(); _, _, path, size = sys.argv\n"
    "subprocess.check_call(['qemu-img', 'create', '-q', '-f', 'qcow2', path, size])"
)
NAMES = ["%08d-1111-4222-8333-444444444444" % number for number in range(3)]


@pytest.fixture
def directory(host):
    """Of the SR `fast`, with what sm itself makes in it: an empty image of a VDI."""
    disk = host.create(host.fast)
    found = "%s/run/sr-mount/%s" % (host.root, host.xapi.SR.get_uuid(host.fast))
    yield found
    host.xapi.VDI.destroy(disk)
    for name in NAMES:
        if os.path.exists(path(found, name)):
            os.unlink(path(found, name))
    assert host.images("fast") == []


def path(directory, uuid):
    return "%s/%s.qcow2" % (directory, uuid)


def left_behind(host, directory, uuid):
    """As sm leaves it, killed between the making of the image and the VDI's: another image like the
    one that is there."""
    (there,) = [
        name
        for name in os.listdir(directory)
        if name.endswith(".qcow2") and name[: -len(".qcow2")] not in NAMES
    ]
    shutil.copyfile(os.path.join(directory, there), path(directory, uuid))
    return path(directory, uuid)


def remove(host, size=SIZE, since=0.0):
    return smapi.call(host.session, host.fast, "sr_remove_unnamed", args=(str(size), repr(since)))


def test_it_goes(host, directory):
    before = time.time() - 5.0
    image = left_behind(host, directory, NAMES[0])
    assert remove(host, since=before) == NAMES[0] and not os.path.exists(image)
    assert not remove(host, since=before), "none is left"
    assert len(host.xapi.SR.get_VDIs(host.fast)) == 1, "the VDI's own image is not touched"


@pytest.mark.parametrize(
    "less, found", [(512, True), (1 << 20, True), ((4 << 20) - 512, True), (4 << 20, False)]
)
def test_sm_may_have_rounded_its_size_up(host, directory, less, found):
    image = left_behind(host, directory, NAMES[0])
    assert (remove(host, size=SIZE - less) == NAMES[0]) == found != os.path.exists(image)


def test_one_that_is_still_being_made_is_waited_for(host, directory):
    """The program that makes it outlives the command that was killed."""
    image = path(directory, NAMES[0])
    making = subprocess.Popen(
        [sys.executable, "-c", MAKES, "create", image, str(SIZE)], stdin=subprocess.PIPE
    )
    removal = []
    thread = threading.Thread(target=lambda: removal.append(remove(host)))
    thread.start()
    try:
        never(lambda: not thread.is_alive(), "it does not wait", 1.0)
    finally:
        making.communicate(b"go on")
        thread.join(60)
    assert removal == [NAMES[0]] and not os.path.exists(image)


def test_an_image_that_others_are_based_on_stays(host, directory):
    image = left_behind(host, directory, NAMES[0])
    subprocess.run(
        [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            os.path.basename(image),
            path(directory, NAMES[1]),
        ],
        check=True,
        timeout=60,
    )
    assert not remove(host) and os.path.exists(image) and os.path.exists(path(directory, NAMES[1]))


def test_one_of_several_is_not_guessed(host, directory):
    images = [left_behind(host, directory, name) for name in NAMES[:2]]
    with pytest.raises(SmFault) as raised:
        remove(host)
    assert "SXM_IMAGE_LEFT" in str(raised.value) and all(
        name in str(raised.value) for name in NAMES[:2]
    )
    assert all(map(os.path.exists, images))


@pytest.mark.parametrize("what", ["another size", "older", "data", "a VDI", "hidden"])
def test_what_may_be_anybodys_stays(host, directory, what):
    image = left_behind(host, directory, NAMES[0])
    size, since = SIZE, time.time() - 60.0
    if what == "another size":
        size = SIZE + 512
    elif what == "older":
        os.utime(image, (since - 1.0, since - 1.0))
    elif what == "data":
        subprocess.run(
            ["qemu-io", "-f", "qcow2", "-c", "write -P 1 1M 64k", image],
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )
    elif what == "a VDI":
        host.xapi.SR.scan(host.fast)
    else:
        open(image + ".hidden", "w").close()
    assert not remove(host, size, since) and os.path.exists(image)
    if what == "a VDI":
        host.xapi.VDI.destroy(host.xapi.VDI.get_by_uuid(NAMES[0]))
    elif what == "hidden":
        os.unlink(image + ".hidden")
