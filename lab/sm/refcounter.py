# SPDX-License-Identifier: LGPL-2.1-only
"""Who on this host needs an image active: a file for each holder,
/run/sm/refcount/<SR>/<image>/<holder>.

A base is needed by every active leaf above it. Named holders in the place of upstream's numbers: a
repeated call changes nothing. Whoever calls holds the SR's lock.
"""

import os

import lab_dom0

BASE_DIR = lab_dom0.path("/run/sm/refcount")


def get(sr_uuid, image, holder):
    """`holder` needs `image`, too. Returns how many do now."""
    directory = os.path.join(BASE_DIR, sr_uuid, image)
    os.makedirs(directory, exist_ok=True)
    open(os.path.join(directory, holder), "w").close()
    return len(os.listdir(directory))


def put(sr_uuid, image, holder):
    """`holder` needs `image` no more. Returns how many still do."""
    directory = os.path.join(BASE_DIR, sr_uuid, image)
    try:
        os.unlink(os.path.join(directory, holder))
    except FileNotFoundError:
        pass
    left = holders(sr_uuid, image)
    if not left and os.path.isdir(directory):
        os.rmdir(directory)
    return len(left)


def holders(sr_uuid, image):
    """Who needs the image."""
    try:
        return sorted(os.listdir(os.path.join(BASE_DIR, sr_uuid, image)))
    except FileNotFoundError:
        return []


def held(sr_uuid, holder):
    """The images that `holder` needs."""
    try:
        images = sorted(os.listdir(os.path.join(BASE_DIR, sr_uuid)))
    except FileNotFoundError:
        return []
    return [image for image in images if holder in holders(sr_uuid, image)]


def reset(sr_uuid):
    """Nobody needs anything of the SR: its directory goes."""
    for image in held_images(sr_uuid):
        for holder in holders(sr_uuid, image):
            put(sr_uuid, image, holder)
    try:
        os.rmdir(os.path.join(BASE_DIR, sr_uuid))
    except FileNotFoundError:
        pass


def held_images(sr_uuid):
    """Every image of the SR that somebody needs."""
    try:
        return sorted(os.listdir(os.path.join(BASE_DIR, sr_uuid)))
    except FileNotFoundError:
        return []
