# SPDX-License-Identifier: LGPL-2.1-only
"""What xe says when something is wrong: on standard error, with exit status 1."""


class XeError(Exception):
    """A refusal: the lines to print."""

    def __init__(self, *lines):
        super().__init__(*lines)
        self.lines = lines


def usage_error(kind, what):
    """A wrong command line."""
    return XeError("%s: %s" % (kind, what), "For usage run: 'xe help'")


def failed(what):
    """The operation cannot be done as it was asked for."""
    return XeError("Error: %s" % what)


KNOWN = {
    "UUID_INVALID": ("The uuid you supplied was invalid.", ("type", "uuid")),
    "HANDLE_INVALID": (
        "You gave an invalid object reference. The object may have recently been deleted. The "
        "class parameter gives the "
        "type of reference given, and the handle parameter echoes the bad value given.",
        ("class", "handle"),
    ),
    "MESSAGE_METHOD_UNKNOWN": (
        "You tried to call a method that does not exist. The method name that you used is echoed.",
        ("method",),
    ),
    "OPERATION_BLOCKED": (
        "You attempted an operation that was explicitly blocked (see the blocked_operations field "
        "of the given object).",
        ("ref", "code"),
    ),
    "VM_BAD_POWER_STATE": (
        "You attempted an operation on a VM that was not in an appropriate power state at the "
        "time; for example, you "
        "attempted to start a VM that was already running. The parameters returned are the VM's "
        "handle, and the "
        "expected and actual VM state at the time of the call.",
        ("vm", "expected", "actual"),
    ),
    "XENAPI_MISSING_PLUGIN": ("The requested plug-in could not be found.", ("name",)),
    "XENAPI_PLUGIN_FAILURE": (
        "There was a failure communicating with the plug-in.",
        ("status", "stdout", "stderr"),
    ),
}
"""Errors that xapi describes in words: its text, and the names of the error's parameters
(idl/datamodel_errors.ml)."""


def of_xapi(details):
    """A XenAPI failure ([code, parameter, ...]) as xe shows it: known ones in words, others by
    their code."""
    code, parameters = details[0], list(details[1:])
    if code == "SESSION_AUTHENTICATION_FAILED":
        return XeError("Authentication failed", "For usage run: 'xe help'")
    if code not in KNOWN:
        return XeError("Error code: %s" % code, "Error parameters: %s" % ", ".join(parameters))
    words, names = KNOWN[code]
    shown = [
        "%s: %s" % (names[number] if number < len(names) else "<extra>", value)
        for number, value in enumerate(parameters)
    ]
    shown += ["%s: <unknown>" % name for name in names[len(parameters) :]]
    return XeError(words, *shown)
