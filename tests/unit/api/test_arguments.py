# SPDX-License-Identifier: LGPL-2.1-only
"""Arguments: every wrong one is named at once, with what would be right."""

import pytest
from hypothesis import given, settings, strategies as st

from storage_motion.api import arguments
from storage_motion.api.arguments import Problems
from storage_motion.errors import BadArguments

VM = "11111111-2222-3333-4444-555555555555"
SR = "aaaaaaaa-2222-3333-4444-555555555555"
REMOTE = {"remote-master": "10.0.0.1", "remote-username": "root", "remote-password": "hush"}


def read(**given_arguments):
    problems = Problems()
    return arguments.read(given_arguments, problems), problems.details


def test_everything_that_xe_vm_migrate_takes():
    request, problems = read(
        **dict(
            REMOTE,
            **{
                "vm": "web",
                "live": "true",
                "host": "b1",
                "remote-network": "storage",
                "destination-sr-uuid": SR,
                "force": "true",
                "vdi:" + VM: SR,
                "vif:" + SR: VM,
                "wait": "false",
                "dry-run": "yes",
            },
        )
    )
    assert problems == []
    assert request.remote == ("https://10.0.0.1", "root", "hush")
    assert (request.vdis, request.vifs) == ({VM: SR}, {SR: VM})
    assert (request.wait, request.dry_run, request.force, request.live) == (False, True, True, True)


@pytest.mark.parametrize(
    "text, limit",
    [("0", 0), ("7", 7), ("", 5), ("-1", None), ("many", None), ("1001", None), ("1" * 99, None)],
)
def test_a_limit_of_retries(text, limit):
    request, problems = read(vm=VM, **{"retry-limit": text})
    assert (problems == []) == (limit is not None) and (
        limit is None or request.retry_limit == limit
    )
    assert limit is not None or "retry-limit" in problems[0]


@pytest.mark.parametrize(
    "text, renew", [("", False), ("renew", True), ("true", None), ("keep", None), ("x" * 99, None)]
)
def test_what_becomes_of_the_tracking(text, renew):
    request, problems = read(vm=VM, cbt=text)
    assert request.renew_tracking is bool(renew)
    if renew is None:
        assert problems == ["cbt: is %r; renew, or leave it out" % text[:64]]
    else:
        assert problems == []


def test_defaults():
    request, problems = read(vm=VM)
    assert (
        problems == []
        and request.remote is None
        and request.wait
        and not request.dry_run
        and request.live is None
    )


def test_a_request_does_not_show_its_password():
    request, _ = read(vm=VM, **REMOTE)
    assert "hush" not in repr(request)


@pytest.mark.parametrize(
    "wrong, argument, right",
    [
        ({}, "vm", "its UUID or its name"),
        ({"vm": "a", "uuid": "b"}, "uuid", "one of them"),
        ({"vm": "a", "destination-sr-uuid": "fast"}, "destination-sr-uuid", "UUID of an SR"),
        ({"vm": "a", "vdi:x": SR}, "vdi:x", "SR or VDI"),
        ({"vm": "a", "vif:" + VM: "lan"}, "vif:" + VM, "network or VIF"),
        ({"vm": "a", "live": "perhaps"}, "live", "true or false"),
        ({"vm": "a", "remote-master": "10.0.0.1"}, "remote-username", "within the pool"),
        (
            {
                "vm": "a",
                "remote-master": "ftp://10.0.0.1",
                "remote-username": "r",
                "remote-password": "p",
            },
            "remote-master",
            "master",
        ),
        (
            {
                "vm": "a",
                "remote-master": "http://10.0.0.1",
                "remote-username": "r",
                "remote-password": "p",
            },
            "remote-master",
            "in clear",
        ),
        (
            {
                "vm": "a",
                "remote-master": "u:p@10.0.0.1",
                "remote-username": "r",
                "remote-password": "p",
            },
            "remote-master",
            "master",
        ),
        (
            {
                "vm": "a",
                "remote-master": "2001:db8::1:443",
                "remote-username": "r",
                "remote-password": "p",
            },
            "remote-master",
            "[2001:db8::1]:443",
        ),
        ({"vm": "a", "destination-sr": SR}, "destination-sr", "did you mean destination-sr-uuid?"),
        ({"vm": "a", "vgpu:" + VM: "x"}, "vgpu:" + VM, "vgpu:<VGPU>=<GPU group"),
        ({"vm": "a", "copy": "perhaps"}, "copy", "true or false"),
        ({"vm": "a", "copy": "true", "snapshots": "drop"}, "snapshots", "leave it out"),
        ({"vm": "a", "copy": "true", "snapshots": "keep"}, "snapshots", "leave it out"),
        ({"vm": "x" * 2000}, "vm", ""),
    ],
)
def test_what_is_wrong_is_named_with_what_is_right(wrong, argument, right):
    _, problems = read(**wrong)
    assert any(problem.startswith(argument + ": ") and right in problem for problem in problems), (
        problems
    )


@pytest.mark.parametrize(
    "selector", ["name-label", "tags", "power-state", "resident-on", "multiple", "other-config:key"]
)
def test_several_vms_by_xes_selectors_are_told_of_sxm_evacuate(selector):
    """xe vm-migrate takes them, and moves each that matches."""
    _, problems = read(vm=VM, **{selector: "true"})
    assert problems == [
        "%s: is how xe selects VMs, and one migration moves one VM; name that with vm, or have "
        "several moved by sxm evacuate" % selector
    ]


def test_a_copy_is_asked_for():
    assert [read(**given)[0].copy for given in ({"copy": "true"}, {"copy": "false"}, {})] == [
        True,
        False,
        False,
    ]


def test_all_at_once():
    _, problems = read(**{"live": "x", "force": "y", "vdi:q": "z", "hots": "b1"})
    assert {problem.partition(":")[0] for problem in problems} == {
        "vm",
        "live",
        "force",
        "vdi",
        "hots",
    }
    collected = Problems()
    arguments.read({"live": "x"}, collected)
    with pytest.raises(BadArguments) as raised:
        collected.raise_any()
    assert len(raised.value.failure()) == 3 and raised.value.failure()[0] == "SXM_BAD_ARGUMENTS"


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.one_of(
            st.sampled_from(
                ["vm", "uuid", "live", "host", "vdi:" + VM, "vif:", "remote-master", "wait"]
            ),
            st.text(),
        ),
        st.text(),
        max_size=8,
    )
)
def test_whatever_comes_is_read_or_named(given_arguments):
    problems = Problems()
    request = arguments.read(given_arguments, problems)
    assert isinstance(request.vm, str) and all(
        isinstance(problem, str) for problem in problems.details
    )


@pytest.mark.parametrize(
    "text, value",
    [
        ("0", 0),
        ("1048576", 1 << 20),
        ("100MiB", 100 << 20),
        ("2G", 2 << 30),
        ("1048575", None),
        ("10%", None),
        ("-1", None),
        ("fast", None),
        ("1e9", None),
    ],
)
def test_a_bandwidth_is_bytes_per_second(text, value):
    request, problems = read(vm=VM, bandwidth=text)
    assert request.bandwidth == (value or 0) and bool(problems) == (value is None)
    if value is None:
        assert problems[0].startswith("bandwidth: ") and "100MiB" in problems[0]
