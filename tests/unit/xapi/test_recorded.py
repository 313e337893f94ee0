# SPDX-License-Identifier: LGPL-2.1-only
"""The product reads what a real xapi answered: docs/facts/recorded."""

import os
import xmlrpc.client

import pytest
import XenAPI

from storage_motion.migration.phases import blocking
from storage_motion.xapi import ova, tasks
from storage_motion.xapi.records import Records

REPOSITORY = os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
)


def recorded(name):
    with open(os.path.join(REPOSITORY, "docs/facts/recorded", name), "rb") as file:
        return file.read()


class Playing(xmlrpc.client.Transport):
    """Answers calls with recorded ones: {method: name of the recording}."""

    def __init__(self, answers):
        super(Playing, self).__init__()
        self._answers = answers

    def request(self, host, handler, request_body, verbose=False):
        _, method = xmlrpc.client.loads(request_body)
        return xmlrpc.client.loads(recorded("xapi-%s.response" % self._answers[method]))[0]


def playing(**answers):
    session = XenAPI.Session(
        "http://xapi",
        transport=Playing({name.replace("__", "."): answer for name, answer in answers.items()}),
    )
    session._session = "OpaqueRef:session"
    return session


def read(document):
    (data,), _ = xmlrpc.client.loads(
        b"<methodResponse><params><param>%s</param></params></methodResponse>"
        % document[document.index(b"<value>") :]
    )
    return data["objects"]


def test_the_whole_document_of_a_vm_is_rewritten():
    """With a snapshot, tags and a blocked operation of the user's in it: what is not ours stays as
    it is, to the letter, but for links to what is not in it: the null reference has an id."""
    document = recorded("ova.xml")
    before = read(document)
    known = {item["id"] for item in before}
    unknown = [
        (item["snapshot"], field)
        for item in before
        if item["class"] == "VM"
        for field in ("parent", "snapshot_of")
        if item["snapshot"][field] not in known
    ]
    assert {snapshot[field] for snapshot, field in unknown} == {"Ref:16"}
    for snapshot, field in unknown:
        snapshot[field] = "OpaqueRef:NULL"
    uuids = {
        kind: [item["snapshot"]["uuid"] for item in before if item["class"] == kind]
        for kind in ("VM", "VDI", "VIF")
    }
    assert len(uuids["VM"]) == 2 and len(uuids["VDI"]) >= 4
    vdis = {uuid: "OpaqueRef:vdi-%d" % number for number, uuid in enumerate(uuids["VDI"])}
    vifs = dict.fromkeys(uuids["VIF"], "OpaqueRef:network")
    after = read(ova.rewrite(document, vdis, vifs))
    assert len(after) == len(before)
    dangling = []
    for was, now in zip(before, after):
        for link in ova.LINKS if was["class"] == "VM" else ():
            if was["snapshot"][link] not in [item["id"] for item in before]:
                dangling.append(link)
                was["snapshot"][link] = "OpaqueRef:NULL"
        where = vdis.get(was["snapshot"].get("uuid")) or vifs.get(was["snapshot"].get("uuid"))
        if where:
            was["snapshot"]["other_config"]["maps_to"] = where
        assert now == was
    assert dangling == ["parent", "snapshot_of"], "as the real exporter leaves them"


def test_a_task_that_failed():
    name = "task-after-import_metadata-live-dry-run"
    record = xmlrpc.client.loads(recorded("xapi-%s.response" % name))[0][0]["Value"]

    class Session(object):
        class xenapi(object):
            class task(object):
                get_status = staticmethod(lambda ref: record["status"])
                get_error_info = staticmethod(lambda ref: record["error_info"])

    with pytest.raises(tasks.TaskFailed) as raised:
        tasks.wait(Session, "OpaqueRef:task", 1)
    assert raised.value.failure() == [
        "VM_TO_IMPORT_IS_NOT_NEWER_VERSION",
        "OpaqueRef:ca34be20-0862-36db-de0d-4d557cba4431",
        "0",
        "0",
    ]


def test_what_is_not_there():
    records = Records(
        playing(
            VM__get_by_uuid="VM.get_by_uuid-unknown", task__get_record="task.get_record-destroyed"
        )
    )
    assert records.by_uuid("VM", "00000000-0000-0000-0000-000000000001") == (None, None)
    assert records.of("task", "OpaqueRef:bf59367b-8594-292d-e646-aa8bb6ae5ac2") is None


def test_a_mark_that_is_there_already():
    session = playing(
        VDI__add_to_sm_config="VDI.add_to_sm_config-duplicate",
        VM__add_to_other_config="VM.destroy-blocked",
    )
    assert blocking.add(session.xenapi.VDI.add_to_sm_config, "OpaqueRef:vdi", "k", "v") is False
    with pytest.raises(XenAPI.Failure, match="OPERATION_BLOCKED"):
        blocking.add(session.xenapi.VM.add_to_other_config, "OpaqueRef:vm", "k", "v")


def test_a_task_that_is_gone_or_refuses_hinders_nothing():
    session = playing(
        task__set_progress="task.get_record-destroyed",
        task__set_status="VM.nosuch",
        task__set_error_info="VM.destroy-blocked",
        task__create="task.destroy",
        task__add_to_other_config="task.destroy",
        task__get_uuid="task.destroy",
    )
    task = tasks.ProgressTask(
        session, tasks.Shown("label", "", "OpaqueRef:vm", {}), "OpaqueRef:task"
    )
    task.progress(0.5)
    assert task.ref == "", "another one was made in its place"
    task.finish("success")
    task.finish("failure", ["SXM_X"])


def test_a_cancel_that_somebody_asked_for():
    shown = tasks.Shown("label", "", "OpaqueRef:vm", {})
    for name, asked in (("cancel-asked", True), ("pending", False)):
        record = xmlrpc.client.loads(recorded("xapi-task.get_record-%s.response" % name))[0][0][
            "Value"
        ]

        class Session(object):
            class xenapi(object):
                class task(object):
                    get_current_operations = staticmethod(lambda ref: record["current_operations"])

        assert tasks.ProgressTask(Session, shown, "OpaqueRef:task").cancel_asked() is asked


def test_records_of_a_pool_are_what_the_product_looks_for():
    """Every field that checks and plans ask for is in what a xapi of today answers."""
    records = Records(
        playing(
            VM__get_record="VM.get_record-running",
            VBD__get_record="VBD.get_record",
            VDI__get_record="VDI.get_record",
            VIF__get_record="VIF.get_record",
            SR__get_record="SR.get_record",
            host__get_record="host.get_record",
            pool__get_all_records="pool.get_all_records",
            SM__get_all_records="SM.get_all_records",
        )
    )
    vm = records.of("VM", "OpaqueRef:vm")
    assert (
        vm["power_state"] == "Running"
        and "destroy" in vm["blocked_operations"]
        and "migrate_send" in vm["allowed_operations"]
    )
    assert int(records.of("VDI", vm["VBDs"][0])["virtual_size"]) == 16 << 20
    assert records.pool()["master"] == records.of("VM", "OpaqueRef:vm")["resident_on"]
    assert records.of("host", vm["resident_on"])["software_version"]["product_version"]
