# SPDX-License-Identifier: LGPL-2.1-only
"""A VM's metadata out of a xapi of the lab, and into one, as a client would."""

import http.client
import io
import tarfile
import urllib.parse
import xmlrpc.client

from tests.eventually import eventually


def export(host, vm, session, **query):
    connection = http.client.HTTPConnection(host.address, host.http_port, timeout=60)
    connection.request(
        "GET",
        "/export_metadata?" + urllib.parse.urlencode(dict(query, ref=vm)),
        headers={"Cookie": "session_id=%s" % session},
    )
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, data


def document(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["ova.xml"]
        text = archive.extractfile("ova.xml").read().decode()
    text = text.replace('<?xml version="1.0"?>', "")
    return xmlrpc.client.loads("<params><param>%s</param></params>" % text)[0][0]


def packed(exported, name="ova.xml", raw=None):
    text = raw if raw is not None else xmlrpc.client.dumps((exported,))
    if raw is None:
        text = text[text.index("<value>") : text.rindex("</param>")]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(text.encode())
        archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def imported(host, x, session, data, **query):
    """The completed task's record."""
    task = x.task.create("import", "")
    connection = http.client.HTTPConnection(host.address, host.http_port, timeout=60)
    connection.request(
        "PUT",
        "/import_metadata?" + urllib.parse.urlencode(dict(query, session_id=session, task_id=task)),
        data,
    )
    try:
        status = connection.getresponse().status
    except ConnectionResetError:
        status = None
    connection.close()
    eventually(lambda: x.task.get_status(task) != "pending", "the task's end")
    record = x.task.get_record(task)
    x.task.destroy(task)
    # recorded: import_metadata-*.response
    assert status == (200 if record["status"] == "success" else None)
    return record
