# SPDX-License-Identifier: LGPL-2.1-only
"""xenopsd's errors, by the names and in the encoding of xenops_interface.ml (module Errors)."""


class XenopsError(Exception):
    """One error of the interface: a constructor and its arguments.

    On the wire: the bare name without an argument, else [name, argument], where several arguments
    are an array.
    """

    def __init__(self, name, *arguments):
        super().__init__(name, *arguments)
        self.name = name
        self.arguments = list(arguments)

    def encode(self):
        """As XML-RPC values."""
        if not self.arguments:
            return self.name
        return [self.name, self.arguments[0] if len(self.arguments) == 1 else self.arguments]

    @classmethod
    def decode(cls, value):
        """The error that `encode` gave; anything else becomes an Internal_error with its text."""
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
            return cls(value[0], *(value[1] if isinstance(value[1], list) else [value[1]]))
        return internal(repr(value))

    def __str__(self):
        return "%s(%s)" % (self.name, ", ".join(str(argument) for argument in self.arguments))


def internal(text):
    """Something else went wrong."""
    return XenopsError("Internal_error", text)


def does_not_exist(kind, identity):
    """No such VM or task. A VM is named by its key in xenopsd's database."""
    return XenopsError("Does_not_exist", kind, _key(identity) if kind == "VM" else identity)


def already_exists(identity):
    """There is such a VM already."""
    return XenopsError("Already_exists", "VM", _key(identity))


def _key(identity):
    return identity + "/config"


def bad_power_state(found, needed):
    """The VM is not in the power state that the operation needs."""
    return XenopsError("Bad_power_state", found, needed)


def encode_any(error):
    """Any exception, in the encoding of the interface."""
    return (
        error.encode()
        if isinstance(error, XenopsError)
        else internal("%s: %s" % (type(error).__name__, error)).encode()
    )
