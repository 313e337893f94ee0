# SPDX-License-Identifier: LGPL-2.1-only
"""Rewriting `ova.xml`, the document that describes an exported VM (docs/facts/xapi.md, Metadata).

It is an XML-RPC value: a struct with `version` and `objects`, an array of structs `class`, `id`,
`snapshot`. The rewriting happens here, on the document, so that the database which it came from is
never touched. Whatever is not rewritten is passed on as it came.

The document is a secret: what is in the VM's virtual TPM stands in it (export.ml, make_vtpm). So
nothing of its text goes into an error, not even by way of the parser's own words.
"""

from typing import Callable, Iterable, Iterator, List, Mapping, Optional, Set, Tuple

from lxml import etree

from storage_motion.errors import BadMetadata
from storage_motion.xapi.records import NULL

LINKS = ("parent", "snapshot_of")  # fields of a VM that the importer keeps as they are written, if
# no object of the document has that id
MAPS_TO = "maps_to"  # the other_config key that xapi's importer honours, of VDIs, VIFs, VGPUs
# members of the record that xapi exports of a virtual TPM (importexport.ml, vtpm')
TPM_UUID, TPM_CONTENT = "vTPM'_uuid", "vTPM'_content"
MAX_BYTES = 32 * 1024 * 1024  # a VM with a hundred disks needs about half a MiB
# of "<" and "=" each: what an element or an attribute takes in memory is a hundred times its text
MAX_MARKUP = 500 * 1000
MAX_DEPTH = 32  # objects/data/value/struct/member/value/struct/member/value nest 12 deep


def parse(document: bytes) -> "etree._Element":
    """The root element of `document` (bytes).

    Raises BadMetadata for anything huge, with a document type, with entities, too deep, or not
    well-formed."""
    if len(document) > MAX_BYTES:
        raise BadMetadata("more than %d bytes" % MAX_BYTES)
    if b"<!DOCTYPE" in document or b"<!ENTITY" in document:
        raise BadMetadata("a document type is not allowed")
    if document.count(b"<") > MAX_MARKUP or document.count(b"=") > MAX_MARKUP:
        raise BadMetadata("more than %d elements or attributes" % MAX_MARKUP)
    # Whatever encoding the document names, it is read as UTF-8, which is what xapi writes: another
    # could hide the above.
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        load_dtd=False,
        dtd_validation=False,
        no_network=True,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(document, parser)
    except etree.XMLSyntaxError as error:
        # Its message may quote the document.
        raise BadMetadata("not well-formed, at %d:%d" % error.position) from None
    except ValueError:
        raise BadMetadata("not well-formed") from None
    if root.getroottree().docinfo.doctype or root.getroottree().docinfo.internalDTD is not None:
        raise BadMetadata("a document type is not allowed")
    depth = 0
    for event, element in etree.iterwalk(root, events=("start", "end")):
        if not isinstance(element.tag, str):
            raise BadMetadata("entities are not allowed")
        depth += 1 if event == "start" else -1
        if depth > MAX_DEPTH:
            raise BadMetadata("nested too deeply")
    return root


def rewrite(
    document: bytes,
    vdis: Mapping[str, str],
    vifs: Mapping[str, str],
    drop: Iterable[Tuple[str, str, Callable[[str, str], bool]]] = (),
    tpms: Iterable[str] = (),
    secrets: bool = True,
    add: Iterable[Tuple[str, str, str, str]] = (),
    clear: Iterable[Tuple[str, str]] = (),
    vgpus: Mapping[str, str] = {},
) -> bytes:
    """The document (bytes) with a counterpart for each of its disks and interfaces.

    `vdis`: {VDI uuid: ref of the importing pool}, `vifs`: {VIF uuid: ref of a network there}. A VDI
    or VIF that is not named gets no counterpart. `drop`: triples (class, field, test) where
    test(key, value) says whether an entry of that map is left out. `tpms`: the uuids of the virtual
    TPMs that it must have; their contents are left out unless `secrets`. `add`: (class, field, key,
    value), entries that all objects of a class get in that map. `clear`: (class, field), what is a
    boolean and false in all of them. `vgpus`: {VGPU uuid: ref of a GPU group there}. Raises
    BadMetadata, also when a named object is not in the document."""
    root = parse(document)
    missing = {("VDI", uuid) for uuid in vdis} | {("VIF", uuid) for uuid in vifs}
    missing |= {("VTPM", uuid) for uuid in tpms} | {("VGPU", uuid) for uuid in vgpus}
    known = _ids(root)
    for class_name, snapshot in objects(root):
        if class_name == "VM":
            _unlink(snapshot, known)
        if class_name == "VTPM":
            missing.discard((class_name, _text(_member(snapshot, TPM_UUID))))
            if not secrets:
                _empty(_member(snapshot, TPM_CONTENT))
        for name, field, test in drop:
            if name == class_name:
                _drop(snapshot, field, test)
        for name, field, key, value in add:
            if name == class_name:
                _add(_map(snapshot, field), key, value)
        for name, field in clear:
            if name == class_name:
                _clear(_member(snapshot, field))
        counterparts = {"VDI": vdis, "VIF": vifs, "VGPU": vgpus}.get(class_name)
        if counterparts is None:
            continue
        config = _map(snapshot, "other_config")
        _drop(snapshot, "other_config", lambda key, value: key == MAPS_TO)
        uuid = _text(_member(snapshot, "uuid"))
        if uuid in counterparts:
            _add(config, MAPS_TO, counterparts[uuid])
            missing.discard((class_name, uuid))
    if missing:
        raise BadMetadata(
            "not in the exported VM: %s" % ", ".join("%s %s" % pair for pair in sorted(missing))
        )
    rewritten: bytes = etree.tostring(root, xml_declaration=True, encoding="UTF-8")
    return rewritten


def contents(document: bytes) -> List[str]:
    """What is in the virtual TPMs of a document (bytes): what nobody may be shown. None of one that
    is not understood."""
    try:
        return [
            _text(_member(snapshot, TPM_CONTENT))
            for class_name, snapshot in objects(parse(document))
            if class_name == "VTPM"
        ]
    except BadMetadata:
        return []


def objects(root: "etree._Element") -> Iterator[Tuple[str, "etree._Element"]]:
    """Pairs (class name, struct element of the record) for every object of a parsed document."""
    listed = _member(_struct(root), "objects")
    data = listed.find("array/data")
    if data is None:
        raise BadMetadata("objects is not an array")
    for value in data.findall("value"):
        obj = _struct(value)
        yield _text(_member(obj, "class")), _struct(_member(obj, "snapshot"))


def _ids(root: "etree._Element") -> Set[str]:
    """The ids of the objects that a parsed document has."""
    listed = _member(_struct(root), "objects").findall("array/data/value")
    return {_text(_member(_struct(value), "id")) for value in listed}


def _unlink(snapshot: "etree._Element", known: Set[str]) -> None:
    """Have the record of a VM lead nowhere where it leads to no object of the document.

    xapi's exporter gives a null reference an id like any other, once one of the fields that it
    walks has one (export.ml, update_table: `affinity` most often). Its importer would leave that id
    in the database as the parent of the first snapshot, and as what the VM is a snapshot of."""
    for member in snapshot.findall("member"):
        value = member.find("value")
        if member.findtext("name") in LINKS and value is not None and _text(value) not in known:
            _empty(value)
            value.text = NULL


def _struct(element: "etree._Element") -> "etree._Element":
    """The struct inside `element`, a <value> (or the root: a bare <value>, or the params of a
    call)."""
    struct = element if element.tag == "struct" else element.find("struct")
    if struct is None:
        raise BadMetadata("a struct is missing")
    return struct


def _member(struct: "etree._Element", name: str) -> "etree._Element":
    """The <value> of a struct's member."""
    found = [
        member.find("value")
        for member in struct.findall("member")
        if member.findtext("name") == name
    ]
    if len(found) != 1 or found[0] is None:
        raise BadMetadata("%d members %r where one is needed" % (len(found), name))
    return found[0]


def _map(snapshot: "etree._Element", field: str) -> "etree._Element":
    return _struct(_member(snapshot, field))


def _text(value: Optional["etree._Element"]) -> str:
    """The string that a <value> holds, with its <string> or without."""
    if value is None:
        raise BadMetadata("a member without a value")
    child = value.find("string")
    return (value.text if child is None else child.text) or ""


def _empty(value: "etree._Element") -> None:
    for child in list(value):
        value.remove(child)
    value.text = None


def _clear(value: "etree._Element") -> None:
    _empty(value)
    etree.SubElement(value, "boolean").text = "0"


def _drop(snapshot: "etree._Element", field: str, test: Callable[[str, str], bool]) -> None:
    config = _map(snapshot, field)
    for member in config.findall("member"):
        if test(member.findtext("name") or "", _text(member.find("value"))):
            config.remove(member)


def _add(struct: "etree._Element", name: str, text: str) -> None:
    member = etree.SubElement(struct, "member")
    etree.SubElement(member, "name").text = name
    etree.SubElement(member, "value").text = text
