"""Rewriting `ova.xml`, the document that describes an exported VM (facts: xapi.md, Metadata).

It is an XML-RPC value: a struct with `version` and `objects`, an array of structs `class`, `id`, `snapshot`. The
rewriting happens here, on the document, so that the database which it came from is never touched. Whatever is not
rewritten is passed on as it came.
"""
from xml.etree import ElementTree

from storage_motion.errors import BadMetadata

MAPS_TO = "maps_to"          # the other_config key that xapi's importer honours, of VDIs and VIFs
MAX_BYTES = 32 * 1024 * 1024  # a VM with a hundred disks needs about half a MiB
MAX_MARKUP = 500 * 1000      # of "<" and "=" each: what an element or an attribute takes in memory is a hundred times its text
DECLARATION = b"<?xml version='1.0' encoding='UTF-8'?>\n"
MAX_DEPTH = 32               # objects/data/value/struct/member/value/struct/member/value nest 12 deep


class _Bounded(ElementTree.TreeBuilder):
    """Makes the tree, without comments and processing instructions, and no deeper than MAX_DEPTH."""

    def __init__(self):
        super(_Bounded, self).__init__()
        self._depth = 0

    def start(self, tag, attributes):
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise BadMetadata("nested too deeply")
        return super(_Bounded, self).start(tag, attributes)

    def end(self, tag):
        self._depth -= 1
        return super(_Bounded, self).end(tag)


def parse(document):
    """The root element of `document` (bytes).

    Raises BadMetadata for anything huge, with a document type, with entities, too deep, or not well-formed."""
    if len(document) > MAX_BYTES:
        raise BadMetadata("more than %d bytes" % MAX_BYTES)
    if b"<!DOCTYPE" in document or b"<!ENTITY" in document:
        raise BadMetadata("a document type is not allowed")
    if document.count(b"<") > MAX_MARKUP or document.count(b"=") > MAX_MARKUP:
        raise BadMetadata("more than %d elements or attributes" % MAX_MARKUP)
    # Whatever encoding the document names, it is read as UTF-8, which is what xapi writes: another could hide the above.
    parser = ElementTree.XMLParser(target=_Bounded(), encoding="utf-8")
    try:
        parser.feed(document)
        root = parser.close()
    except (ElementTree.ParseError, ValueError) as error:
        raise BadMetadata("not well-formed: %s" % error)
    return root


def rewrite(document, vdis, vifs, drop=()):
    """The document (bytes) with a counterpart for each of its disks and interfaces.

    `vdis`: {VDI uuid: ref of the importing pool}, `vifs`: {VIF uuid: ref of a network there}. A VDI or VIF that is not
    named gets no counterpart. `drop`: triples (class, field, test) where test(key, value) says whether an entry of that
    map is left out. Raises BadMetadata, also when a named VDI or VIF is not in the document."""
    root = parse(document)
    missing = {("VDI", uuid) for uuid in vdis} | {("VIF", uuid) for uuid in vifs}
    for class_name, snapshot in objects(root):
        for name, field, test in drop:
            if name == class_name:
                _drop(snapshot, field, test)
        counterparts = {"VDI": vdis, "VIF": vifs}.get(class_name)
        if counterparts is None:
            continue
        config = _map(snapshot, "other_config")
        _drop(snapshot, "other_config", lambda key, value: key == MAPS_TO)
        uuid = _text(_member(snapshot, "uuid"))
        if uuid in counterparts:
            _add(config, MAPS_TO, counterparts[uuid])
            missing.discard((class_name, uuid))
    if missing:
        raise BadMetadata("not in the exported VM: %s" % ", ".join("%s %s" % pair for pair in sorted(missing)))
    # A carriage return that is not written as such would be read as the end of a line.
    return DECLARATION + ElementTree.tostring(root, encoding="utf-8").replace(b"\r", b"&#13;")


def objects(root):
    """Pairs (class name, struct element of the record) for every object of a parsed document."""
    listed = _member(_struct(root), "objects")
    data = listed.find("array/data")
    if data is None:
        raise BadMetadata("objects is not an array")
    for value in data.findall("value"):
        obj = _struct(value)
        yield _text(_member(obj, "class")), _struct(_member(obj, "snapshot"))


def _struct(element):
    """The struct inside `element`, a <value> (or the root: a bare <value>, or the params of a call)."""
    struct = element if element.tag == "struct" else element.find("struct")
    if struct is None:
        raise BadMetadata("a struct is missing")
    return struct


def _member(struct, name):
    """The <value> of a struct's member."""
    found = [member.find("value") for member in struct.findall("member") if member.findtext("name") == name]
    if len(found) != 1 or found[0] is None:
        raise BadMetadata("%d members %r where one is needed" % (len(found), name))
    return found[0]


def _map(snapshot, field):
    return _struct(_member(snapshot, field))


def _text(value):
    """The string that a <value> holds, with its <string> or without."""
    if value is None:
        raise BadMetadata("a member without a value")
    child = value.find("string")
    return (value.text if child is None else child.text) or ""


def _drop(snapshot, field, test):
    config = _map(snapshot, field)
    for member in config.findall("member"):
        if test(member.findtext("name") or "", _text(member.find("value"))):
            config.remove(member)


def _add(struct, name, text):
    member = ElementTree.SubElement(struct, "member")
    ElementTree.SubElement(member, "name").text = name
    ElementTree.SubElement(member, "value").text = text
