# SPDX-License-Identifier: LGPL-2.1-only
"""The images of a directory as trees, and what SM's garbage collector may do with each. No image is
changed here."""

from sm import qcow2util
from sm.core import util

OLD = "OLD_"
"""How the name of a leaf begins that was merged into its parent, until it is removed."""


class Image(object):
    """An image with its `parent` and `children` (Images). `size`: bytes that it takes on disk."""

    def __init__(self, info):
        self.uuid, self.path, self.hidden, self.size = (
            info.uuid,
            info.path,
            info.hidden,
            info.size_phys,
        )
        self.parent = None
        self.children = []

    def leaves(self):
        """The images below this one, or itself, that have no children."""
        if not self.children:
            return [self]
        return [leaf for child in self.children for leaf in child.leaves()]

    def height(self):
        """The number of images in the longest chain that ends in this one."""
        return 1 + max([child.height() for child in self.children] or [0])

    def root(self):
        """The image that this one is based on, and that on none."""
        return self.parent.root() if self.parent else self


def read(directory, force=False):
    """The images of a directory: uuid -> Image. Raises SMException if the parent of one is missing,
    unless told to go on."""
    infos = qcow2util.getAll(directory)
    images = {uuid: Image(info) for uuid, info in infos.items()}
    for uuid, info in infos.items():
        if info.parent in images:
            images[uuid].parent = images[info.parent]
            images[info.parent].children.append(images[uuid])
        elif info.parent and not force and not uuid.startswith(OLD):
            raise util.SMException("Parent VDI %s of %s not found" % (info.parent, uuid))
    return images


def garbage(images, kept=()):
    """Hidden images on which nothing is based (and then those on which only they were), children
    first, except the uuids `kept`."""
    found = []
    while True:
        more = [
            image
            for image in images.values()
            if image not in found
            and image.hidden
            and image.uuid not in kept
            and all(child in found for child in image.children)
        ]
        if not more:
            return found
        found += more


def coalesceable(images):
    """Those that can be merged into their parents: hidden, no leaf, and an only child. Those of the
    tallest trees first.

    Which of one tree comes first the real collector leaves to the order of the directory. Here it
    is the one nearest to a leaf: of QCOW2 images that are merged below a leaf in use that leaves
    most behind (coalesce)."""
    found = [
        image for image in images.values() if image.hidden and image.children and _only_child(image)
    ]
    return sorted(found, key=lambda image: (-image.root().height(), image.height()))


def leaf_coalesceable(images):
    """Leaves that can be merged into their parents: only children, too."""
    return [
        image
        for image in images.values()
        if not image.hidden and not image.children and _only_child(image)
    ]


def _only_child(image):
    return image.parent is not None and len(image.parent.children) == 1
