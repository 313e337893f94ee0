# SPDX-License-Identifier: LGPL-2.1-only
"""Rewriting ova.xml, and what is refused before it is looked at."""

import io
import tarfile
import traceback
import xmlrpc.client

import pytest
from hypothesis import given, settings, strategies as st

from storage_motion.errors import BadMetadata
from storage_motion.xapi import metadata, ova
from tpm_document import SECRET, value, with_tpm

VDI, OTHER, VIF, VGPU = "vdi-1", "vdi-2", "vif-1", "vgpu-1"


def exported(**changes):
    data = {
        "version": {"hostname": "a1"},
        "objects": [
            {
                "class": "VM",
                "id": "Ref:0",
                "snapshot": {
                    "uuid": "vm",
                    "name_label": "caf\u00e9 & <b>",
                    "ha_always_run": True,
                    "other_config": {"sxm_migration": "m", "keep": "1"},
                    "blocked_operations": {"destroy": "ours", "start": "the user's"},
                },
            },
            {
                "class": "VDI",
                "id": "Ref:1",
                "snapshot": {"uuid": VDI, "other_config": {"maps_to": "OpaqueRef:old", "a": "b"}},
            },
            {"class": "VDI", "id": "Ref:2", "snapshot": {"uuid": OTHER, "other_config": {}}},
            {"class": "VIF", "id": "Ref:3", "snapshot": {"uuid": VIF, "other_config": {}}},
            {"class": "VGPU", "id": "Ref:4", "snapshot": {"uuid": VGPU, "other_config": {}}},
        ],
    }
    data.update(changes)
    return b"<?xml version='1.0'?>" + value(data)


def read(document):
    (data,), _ = xmlrpc.client.loads(
        b"<methodResponse><params><param>%s</param></params></methodResponse>"
        % document.partition(b"?>")[2]
    )
    return {entry["snapshot"]["uuid"]: entry["snapshot"] for entry in data["objects"]}


def test_what_is_cleared_is_false():
    before = read(exported())
    after = read(ova.rewrite(exported(), {}, {}, clear=[("VM", "ha_always_run")]))
    assert before["vm"].pop("ha_always_run") is True
    assert after["vm"].pop("ha_always_run") is False
    assert after["vm"] == before["vm"]


def test_counterparts():
    before = read(exported())
    after = read(ova.rewrite(exported(), {VDI: "OpaqueRef:new"}, {VIF: "OpaqueRef:net"}))
    assert after[VDI]["other_config"] == {"maps_to": "OpaqueRef:new", "a": "b"}
    assert after[OTHER] == before[OTHER] and after["vm"] == before["vm"]
    assert after[VIF]["other_config"] == {"maps_to": "OpaqueRef:net"}
    after = read(ova.rewrite(exported(), {}, {}, vgpus={VGPU: "OpaqueRef:group"}))
    assert after[VGPU]["other_config"] == {"maps_to": "OpaqueRef:group"}
    with pytest.raises(BadMetadata, match="VGPU vgpu-2"):
        ova.rewrite(exported(), {}, {}, vgpus={"vgpu-2": "OpaqueRef:group"})


def test_an_old_counterpart_goes():
    assert read(ova.rewrite(exported(), {}, {}))[VDI]["other_config"] == {"a": "b"}


def test_a_link_to_no_object_of_the_document_leads_nowhere():
    def vm(identity, parent, snapshot_of):
        snapshot = {"uuid": identity, "parent": parent, "snapshot_of": snapshot_of}
        return {"class": "VM", "id": identity, "snapshot": snapshot}

    # as xapi 26 writes it: Ref:156 is its id for the null reference
    document = value(
        {
            "objects": [
                vm("Ref:0", "Ref:2", "Ref:156"),
                vm("Ref:1", "Ref:156", "Ref:0"),
                vm("Ref:2", "Ref:1", "Ref:0"),
            ]
        }
    )
    after = read(ova.rewrite(b"<?xml version='1.0'?>" + document, {}, {}))
    assert [(vm["parent"], vm["snapshot_of"]) for _, vm in sorted(after.items())] == [
        ("Ref:2", "OpaqueRef:NULL"),
        ("OpaqueRef:NULL", "Ref:0"),
        ("Ref:1", "Ref:0"),
    ]


def test_our_marks_and_blocks_stay_behind():
    drop = [
        ("VM", "other_config", lambda key, text: key == "sxm_migration"),
        ("VM", "blocked_operations", lambda key, text: text == "ours"),
    ]
    vm = read(ova.rewrite(exported(), {}, {}, drop))["vm"]
    assert vm["other_config"] == {"keep": "1"} and vm["blocked_operations"] == {
        "start": "the user's"
    }


def tpm_of(document):
    (data,), _ = xmlrpc.client.loads(
        b"<methodResponse><params><param>%s</param></params></methodResponse>"
        % document.partition(b"?>")[2]
    )
    return data["objects"][1]["snapshot"]


@pytest.mark.parametrize("content", [SECRET, "", "QQ==  "])
def test_a_virtual_tpm_goes_along_as_it_is(content):
    document = with_tpm(content)
    assert tpm_of(ova.rewrite(document, {}, {}, tpms=["tpm-1"])) == tpm_of(document)
    assert tpm_of(document)["vTPM'_content"] == content and ova.contents(document) == [content]


def test_its_contents_stay_here_where_they_are_not_wanted():
    rewritten = ova.rewrite(with_tpm(), {}, {}, tpms=["tpm-1"], secrets=False)
    assert tpm_of(rewritten) == dict(tpm_of(with_tpm()), **{"vTPM'_content": ""})
    assert SECRET.split()[0].encode() not in rewritten


def test_a_virtual_tpm_that_is_not_exported():
    with pytest.raises(BadMetadata, match="not in the exported VM: VTPM tpm-1"):
        ova.rewrite(exported(), {}, {}, tpms=["tpm-1"])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: text.index(b"c2F2")],
        lambda text: text.replace(b"U2Vj", b"<U2Vj>"),
        lambda text: text.replace(b"U2Vj", b"&U2Vj;"),
        lambda text: text.replace(b"U2Vj", b"\xffU2Vj"),
        lambda text: text.replace(b"<string>U2Vj", b"<U2Vj a=U2Vj><string>"),
        lambda text: text.replace(b"vTPM'_content", b"else"),
    ],
)
def test_no_error_quotes_the_document(spoil):
    document = with_tpm()
    assert spoil(document) != document
    with pytest.raises(BadMetadata) as raised:
        ova.rewrite(spoil(document), {}, {}, tpms=["tpm-1"], secrets=False)
    told = "".join(traceback.format_exception(None, raised.value, raised.value.__traceback__))
    for part in SECRET.split() + ["U2Vj"]:
        assert part not in told and part not in repr(raised.value.args)
    assert ova.contents(spoil(document)) in ([], [SECRET])


def test_a_disk_that_is_not_there():
    with pytest.raises(BadMetadata) as raised:
        ova.rewrite(exported(), {"vdi-9": "OpaqueRef:x"}, {})
    assert "vdi-9" in str(raised.value)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<",
        b"hello",
        b"<value/>",
        b"<value><struct/></value>",
        exported(objects="none"),
        exported(objects=[{"class": "VDI"}]),
        exported(objects=[{"class": "VDI", "id": "r", "snapshot": {"uuid": "u"}}]),
        b'<!DOCTYPE value [<!ENTITY a "b">]><value>&a;</value>',
        b'<!DOCTYPE value SYSTEM "file:///etc/passwd"><value/>',
        b'<?xml version="1.0"?><!DOCTYPE v [<!ENTITY x SYSTEM "file:///etc/passwd">]><value><struct><member><name>objects</name><value>&x;</value></member></struct></value>',
        '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE v [<!ENTITY a "b">]><value>&a;</value>'.encode(  # noqa: E501
            "utf-16"
        ),
        b"<value>" + b"<struct>" * 200 + b"</struct>" * 200 + b"</value>",
        b"<a>" * 100000,
    ],
)
def test_hostile_documents(document):
    with pytest.raises(BadMetadata):
        ova.rewrite(document, {}, {})


def test_a_billion_laughs():
    entities = "".join(
        '<!ENTITY a%d "%s">' % (number, "&a%d;" % (number - 1) * 10) for number in range(1, 10)
    )
    with pytest.raises(BadMetadata):
        ova.parse(('<!DOCTYPE v [<!ENTITY a0 "ha">%s]><value>&a9;</value>' % entities).encode())


def test_a_huge_document(monkeypatch):
    monkeypatch.setattr(ova, "MAX_BYTES", 1000)
    with pytest.raises(BadMetadata):
        ova.parse(b"<value>" + b" " * 1000 + b"</value>")


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.integers(0, 1500).map(lambda cut: exported()[:cut]),
        st.tuples(st.integers(0, 1400), st.binary(min_size=1, max_size=8)).map(
            lambda change: (
                exported()[: change[0]] + change[1] + exported()[change[0] + len(change[1]) :]
            )
        ),
    )
)
def test_whatever_comes_is_rewritten_or_refused(document):
    try:
        ova.rewrite(document, {}, {})
    except BadMetadata:
        pass


def test_an_archive_there_and_back():
    assert metadata.unpack(metadata.pack(b"document")) == b"document"


def archive(name="ova.xml", kind=tarfile.REGTYPE, body=b"x"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.size = kind, len(body)
        tar.addfile(member, io.BytesIO(body))
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 5000,
        archive("../ova.xml"),
        archive(kind=tarfile.SYMTYPE, body=b""),
        archive(body=b"y" * 9000)[:4000],
    ],
)
def test_archives_that_are_none(data):
    with pytest.raises(BadMetadata):
        metadata.unpack(data)


def test_an_archive_that_is_huge(monkeypatch):
    monkeypatch.setattr(ova, "MAX_BYTES", 10)
    with pytest.raises(BadMetadata):
        metadata.unpack(archive(body=b"x" * 11))


def test_the_ends_of_lines_arrive_as_they_are():
    """A description that was written on Windows. As such in a document, a carriage return is read
    as the end of a line."""
    document = b"<value>a&#13;\nb &amp; &lt;<!-- c -->d</value>"
    root = ova.parse(document)
    assert root.text == "a\r\nb & <d"
    struct = exported().replace(b"the user's", b"a&#13;\nb")
    assert read(ova.rewrite(struct, {}, {}))["vm"]["blocked_operations"]["start"] == "a\r\nb"
