# SPDX-License-Identifier: LGPL-2.1-only
"""Documents: a VM's metadata from the other pool, a journal from the disk, images and what qemu-img
says of them."""

import json
import os
import shutil
import struct
import tarfile
import tempfile
import xmlrpc.client

import pytest
from hypothesis import given, strategies as st

import fuzz_bounds
from fuzz_bounds import EACH
from storage_motion.api import status
from storage_motion.dom0 import images
from storage_motion.errors import (
    BadImage,
    BadMetadata,
    ImagesUnrelated,
    ImageToolFailed,
    JournalError,
)
from storage_motion.journal import journal
from storage_motion.journal.journal import RECEIVING, SOURCE, Journal
from storage_motion.migration import migration
from storage_motion.xapi import metadata, ova
from test_fuzz_arguments import JSON, WORLD
from vhd_builder import SECTOR, Vhd, checksum, sector_data

SECRET = "the text of a file that no document may ask for"
MIGRATION = "0e4a9c52-64d8-4c6f-9d3e-111111111111"


@pytest.fixture(scope="module")
def directory():
    with tempfile.TemporaryDirectory(prefix="sxm-fuzz-", dir="/dev/shm") as path:
        with open(path + "/secret", "w") as out:
            out.write(SECRET)
        yield path


# ova.xml


def exported():
    data = {
        "version": {"hostname": "a1"},
        "objects": [
            {
                "class": "VM",
                "id": "Ref:0",
                "snapshot": {
                    "uuid": "vm",
                    "other_config": {"sxm_migration": "m"},
                    "blocked_operations": {"destroy": "ours"},
                },
            },
            {
                "class": "VDI",
                "id": "Ref:1",
                "snapshot": {"uuid": "vdi", "other_config": {"maps_to": "OpaqueRef:old"}},
            },
            {"class": "VIF", "id": "Ref:3", "snapshot": {"uuid": "vif", "other_config": {}}},
        ],
    }
    text = xmlrpc.client.dumps((data,))
    return (
        b"<?xml version='1.0'?>"
        + text[text.index("<value>") : text.rindex("</param>")].replace("\n", "").encode()
    )


DROP = (
    ("VM", "other_config", lambda key, value: key == "sxm_migration"),
    ("VM", "blocked_operations", lambda key, value: value == "ours"),
)
GOOD = exported()
TAGS = [
    b"<value>",
    b"</value>",
    b"<struct>",
    b"</struct>",
    b"<member>",
    b"</member>",
    b"<name>",
    b"</name>",
    b"<array>",
    b"<data>",
    b"</data>",
    b"<string>",
    b"<value/>",
    b"<struct/>",
    b"<name/>",
    b"<i4>",
    b"other_config",
    b"maps_to",
    b"uuid",
    b"snapshot",
    b"class",
    b"objects",
    b"VDI",
    b"<!-- x -->",
    b"<?pi x?>",
    b"<![CDATA[x]]>",
    b"&x;",
    b"&#0;",
    b"&#x1F4A9;",
    b" xmlns='u'",
    b"<a:b/>",
    b"\xff\xfe",
    b"\xc3\x28",
]
TARGETS = [tag for tag in TAGS if tag in GOOD]


def swapped(change):
    """GOOD with the nth of one token replaced by another."""
    old, number, new = change
    parts = GOOD.split(old)
    at = number % (len(parts) - 1) + 1
    return old.join(parts[:at]) + new + old.join(parts[at:])


BODY = GOOD.partition(b"?>")[2].replace(b"OpaqueRef:old", b"&x;")
LAUGHS = b"".join(b'<!ENTITY x%d "%s">' % (n, b"&x%d;" % (n - 1) * 10) for n in range(1, 12))
# Documents that are known to be trouble elsewhere. URL stands for that of a file which nothing may
# show.
TROUBLE = {
    "entity of a file": lambda: b'<!DOCTYPE v [<!ENTITY x SYSTEM "URL">]>' + BODY,
    "DTD of a file": lambda: b'<!DOCTYPE v SYSTEM "URL">' + BODY,
    "parameter entity": lambda: b'<!DOCTYPE v [<!ENTITY % p SYSTEM "URL">%p;]>' + BODY,
    "a billion laughs": lambda: (
        b'<!DOCTYPE v [<!ENTITY x0 "ha">' + LAUGHS + b"]>" + BODY.replace(b"&x;", b"&x11;")
    ),
    "UTF-16": lambda: (
        '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE v [<!ENTITY x SYSTEM "URL">]>'
        + BODY.decode()
    ).encode("utf-16"),
    "UTF-7": lambda: ('<?xml version="1.0" encoding="utf-7"?>' + BODY.decode()).encode("utf-7"),
    "EBCDIC": lambda: (
        '<?xml version="1.0" encoding="cp037"?><!DOCTYPE v [<!ENTITY x "y">]>' + BODY.decode()
    ).encode("cp037"),
    "XInclude": lambda: (
        b'<v xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="URL" parse="text"/></v>'
    ),
    "deep": lambda: b"<a>" * 200000,
    "elements": lambda: b"<a>" + b"<b/>" * 4000000 + b"</a>",
    "attributes": lambda: (
        b"<a " + b" ".join(b"x%d=''" % number for number in range(400000)) + b"/>"
    ),
    "objects": lambda: GOOD.replace(
        b"</data>",
        b"<value><struct><member><name>class</name><value>VDI</value></member></struct></value>"
        * 30000
        + b"</data>",
    ),
    "text": lambda: GOOD.replace(b"OpaqueRef:old", b"x" * (20 << 20)),
    "references": lambda: b"<value>" + b"&amp;" * 2000000 + b"</value>",
}


def rewritten(document):
    with fuzz_bounds.bounded("ova.xml", 256 * fuzz_bounds.MIB):
        try:
            after = ova.rewrite(document, {"vdi": "OpaqueRef:new"}, {"vif": "OpaqueRef:net"}, DROP)
        except BadMetadata as error:
            assert len(str(error)) < 4096
            return
        assert (
            SECRET.encode() not in after and b"OpaqueRef:new" in after and b"<!DOCTYPE" not in after
        )
        ova.parse(after)


@fuzz_bounds.inputs("ova.xml", 1, EACH)
@given(
    st.one_of(
        st.tuples(st.sampled_from(TARGETS), st.integers(0, 60), st.sampled_from(TAGS + [b""])).map(
            swapped
        ),
        st.binary(max_size=100),
        st.lists(st.sampled_from(TAGS), max_size=30).map(b"".join),
        st.integers(0, len(GOOD)).map(lambda cut: GOOD[:cut]),
    )
)
def test_metadata(example):
    for document in fuzz_bounds.variants(example):
        rewritten(document)


@pytest.mark.parametrize("name", sorted(TROUBLE))
def test_metadata_that_is_known_to_be_trouble(directory, name):
    rewritten(TROUBLE[name]().replace(b"URL", ("file://%s/secret" % directory).encode()))


ARCHIVE = metadata.pack(GOOD)


@fuzz_bounds.inputs("archive", 1, EACH)
@given(
    st.one_of(
        st.tuples(st.integers(0, 600), st.binary(min_size=1, max_size=12)).map(
            lambda change: ARCHIVE[: change[0]] + change[1] + ARCHIVE[change[0] + len(change[1]) :]
        ),
        st.integers(0, len(ARCHIVE)).map(lambda cut: ARCHIVE[:cut]),
        st.binary(max_size=1100),
    ),
    st.booleans(),
)
def test_archive(example, mended):
    for data in fuzz_bounds.variants(example):
        unpack(data, mended)


def unpack(data, mended):
    if mended and len(data) >= 512:  # a header whose checksum is right
        total = sum(data[:148]) + 8 * 32 + sum(data[156:512])
        data = data[:148] + b"%06o\0 " % total + data[156:]
    with fuzz_bounds.bounded("archive"):
        try:
            metadata.unpack(data)
        except BadMetadata:
            pass


def test_archives_that_claim_to_be_huge():
    for name in ("././@LongLink", "ova.xml"):
        for kind in (b"0", b"L", b"x", b"g", b"S"):
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, 1 << 40
            with fuzz_bounds.bounded("archive"), pytest.raises(BadMetadata):
                metadata.unpack(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096))


# The journal


def good_journal():
    plan, _ = WORLD.plan(WORLD.good)
    return dict(
        migration.initial(plan),
        version=journal.VERSION,
        migration=MIGRATION,
        state="running",
        started=1.0,
        updated=2.0,
    )


JOURNAL = good_journal()
RECEIVED = {
    "version": 1,
    "migration": MIGRATION,
    "state": "running",
    "started": 1.0,
    "updated": 2.0,
    "disks": {"k": {"vdi": None, "sr": "s", "created": True, "shut": False}},
    "srs": ["s"],
    "sources": ["v"],
    "receivers": [{"number": 1, "process": {"pid": 1, "started": 1}, "keys": ["k"]}],
    "busy": None,
}


def paths(value, path=()):
    """Every place in a JSON value."""
    yield path
    for key, inner in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    ):
        yield from paths(inner, path + (key,))


def changed(value, path, new):
    """`value` with what is at `path` replaced, or taken away where `new` is ...."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1 and new is ...:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


def journals(good):
    places = [path for path in paths(good) if path]
    altered = st.tuples(st.sampled_from(places), st.one_of(st.just(...), JSON)).map(
        lambda change: json.dumps(changed(good, *change)).encode()
    )
    text = json.dumps(good).encode()
    return st.one_of(
        altered,
        altered,
        st.integers(0, len(text)).map(lambda cut: text[:cut]),
        st.binary(max_size=50),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.sampled_from(
            [
                text.replace(b"1.0", b"NaN"),
                text.replace(b"1.0", b"1e999"),
                text.replace(b"1.0", b"9" * 30),
            ]
        ),
    )


@pytest.mark.parametrize(
    "text",
    [b"[" * 100000, b'{"version": ' + b"9" * 2000000 + b"}", b" " * (17 << 20)],
    ids=["deep", "digits", "huge"],
)
def test_journals_that_are_trouble(directory, text):
    load(directory, SOURCE, text)


@fuzz_bounds.inputs("journal", 1, EACH)
@given(
    st.sampled_from([SOURCE, RECEIVING]).flatmap(
        lambda side: st.tuples(st.just(side), journals(RECEIVED if side else JOURNAL))
    )
)
def test_journal(directory, made):
    side, example = made
    for text in fuzz_bounds.variants(example):
        load(directory, side, text)


def load(directory, side, text):
    """Load a journal of a host whose root is below `directory`, and tell its status."""
    root = directory + "/root"
    os.makedirs(root + "/var/lib/sxm", mode=0o700, exist_ok=True)
    with open("%s/var/lib/sxm/%s%s.json" % (root, side, MIGRATION), "wb") as out:
        out.write(text)
    before = os.environ.get("SXM_ROOT")
    os.environ["SXM_ROOT"] = root
    try:
        # its directory, if that were not there
        with fuzz_bounds.bounded("journal", 128 * fuzz_bounds.MIB, ("os.mkdir",)):
            try:
                entry = Journal.load(MIGRATION, side).entry
                json.dumps(entry if side else status.of(entry))
            except JournalError as error:
                assert len(str(error)) < 4096
    finally:
        if before is None:
            del os.environ["SXM_ROOT"]
        else:
            os.environ["SXM_ROOT"] = before
        shutil.rmtree(root)


# VHD

SMALL = 64 << 10  # bytes of a block
NUMBERS = st.sampled_from(
    [0, 1, 2, 3, 4, 511, 512, 1024, 1536, 4096, 1 << 16, 1 << 31, (1 << 31) - 1, (1 << 32) - 1]
)


@pytest.fixture(scope="module")
def chain(directory):
    parent = Vhd(
        directory + "/parent.vhd",
        8 * SMALL,
        {3: sector_data(0, 3), 200: sector_data(0, 200)},
        block=SMALL,
    )
    child = Vhd(
        directory + "/child.vhd",
        8 * SMALL,
        {5: sector_data(1, 5), 700: sector_data(1, 700)},
        parent,
        SMALL,
    )
    child.creator, child.version, child.full = b"tap", 0x00010003, [1]
    parent.write(), child.write()
    with open(child.path, "rb") as source:
        return child.path, source.read()


def mutilated(data, changes):
    """An image with 32-bit numbers changed, and the checksums made right again."""
    data = bytearray(data)
    for at, number in changes:
        data[at : at + 4] = struct.pack(">I", number)
    footer = checksum(bytes(data[:512]), 64)
    data[:512] = footer
    data[512:1536] = checksum(bytes(data[512:1536]), 36)
    return bytes(data[:-512]) + footer


PLACES = st.one_of(
    st.sampled_from([8, 12, 16, 20, 28, 32, 40, 44, 48, 52, 60, 68]),  # the footer
    # the header, its locators
    st.sampled_from(
        [512 + at for at in (8, 12, 16, 20, 24, 28, 32, 40, 44, 576, 580, 584, 592, 596, 600, 624)]
    ),
    # the table, and what follows
    st.integers(384, 400).map(lambda at: at * 4),
    st.integers(512, 700).map(lambda at: at * 4),
)


@fuzz_bounds.inputs("VHD", 1, EACH)
@given(
    st.lists(st.tuples(PLACES, st.one_of(NUMBERS, st.integers(0, 64))), max_size=3),
    st.one_of(st.none(), st.integers(0, 6000)),
    st.booleans(),
    st.sampled_from(
        [
            None,
            None,
            b"file://./child.vhd",
            b"file:///dev/zero",
            b"file:///dev/tty",
            b"file://" + b"../" * 50,
            b"file://./\xff",
        ]
    ),
)
def test_vhd(directory, chain, changes, cut, relative, parent):
    path, good = chain
    data = mutilated(good, changes)
    if parent:
        data = data.replace(b"file://./parent.vhd", parent[:19].ljust(19, b"/"))
    for image in fuzz_bounds.variants(data if cut is None else data[:cut]):
        extents(path, image, directory + "/parent.vhd" if relative else None)


def extents(path, data, base):
    """Write an image and have it read."""
    with open(path, "wb") as out:
        out.write(data)
    with fuzz_bounds.bounded("VHD", 256 * fuzz_bounds.MIB):
        try:
            size, extents = images.extents("vhd", path, base)
            assert all(
                0 <= offset and length > 0 and offset + length <= size and offset % SECTOR == 0
                for offset, length in extents
            )
            assert all(
                first[0] + first[1] < second[0] for first, second in zip(extents, extents[1:])
            )
        except (BadImage, ImagesUnrelated):
            pass


# What qemu-img says.

MAP = [
    {
        "start": 0,
        "length": 65536,
        "depth": 0,
        "present": True,
        "zero": False,
        "data": True,
        "offset": 327680,
    }
]
INFO = [{"virtual-size": 1 << 20, "filename": "/a", "format": "qcow2"}]
SAID = st.one_of(
    JSON.map(json.dumps),
    st.text(max_size=20),
    st.sampled_from(["", "[" * 100000, "[" + "9" * 100000 + "]"]),
    *(
        st.tuples(
            st.sampled_from([path for path in paths(good) if path]), st.one_of(st.just(...), JSON)
        ).map(lambda change, good=good: json.dumps(changed(good, *change)))
        for good in (MAP, INFO)
    ),
)


@fuzz_bounds.inputs("qemu-img", 1, EACH)
@given(SAID, SAID)
def test_qemu_img(map_example, info):
    for said in fuzz_bounds.variants(map_example.encode("utf-8", "replace")):
        be_told(said, info.encode("utf-8", "replace"))


def be_told(said, also):
    patch = pytest.MonkeyPatch()
    patch.setattr(images, "_run", lambda line, path: also if "info" in line else said)
    try:
        with fuzz_bounds.bounded("qemu-img"):
            try:
                size, extents = images.extents("qcow2", "/a")
                assert all(
                    0 <= offset and length > 0 and offset + length <= size
                    for offset, length in extents
                )
            except ImageToolFailed as error:
                assert len(str(error)) < 4096
    finally:
        patch.undo()
