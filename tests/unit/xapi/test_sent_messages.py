# SPDX-License-Identifier: LGPL-2.1-only
"""Messages as xapi reads them: documents without a blank between their elements."""

import xml.etree.ElementTree
import xmlrpc.client

from storage_motion.xapi import sent_messages

RECORD = {
    "name": "ALARM",
    "priority": "3",
    "cls": "VM",
    "obj_uuid": "v",
    "timestamp": xmlrpc.client.DateTime("20260102T03:04:05Z"),
    "uuid": "u",
    "body": "",
}


def test_the_form_of_one():
    assert sent_messages.document({"OpaqueRef:1": RECORD}) == (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<message><ref>OpaqueRef:1</ref>'
        b"<name>ALARM</name><priority>3</priority><cls>VM</cls><obj_uuid>v</obj_uuid>"
        b"<timestamp>20260102T03:04:05Z</timestamp><uuid>u</uuid><body></body></message>"
    )


def test_any_text_arrives_as_it_is():
    body = "<value name='x'/> & ]]> \u00e4\u20ac\n\ttwo\r\nlines"
    (_, *documents) = sent_messages.document(
        {"OpaqueRef:1": dict(RECORD, body=body), "OpaqueRef:2": RECORD}
    ).split(b"<?xml")
    assert len(documents) == 2
    found = xml.etree.ElementTree.fromstring(b"<?xml" + documents[0])
    assert found.find("body").text == body
    assert [element.tail for element in found] == [None] * 8
