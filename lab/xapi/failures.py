# SPDX-License-Identifier: LGPL-2.1-only
"""What a XenAPI call fails with: an error code of XenAPI and its parameters."""


class Failure(Exception):
    """A XenAPI failure. `description`: [code, parameter, ...], all strings, as ErrorDescription
    carries it."""

    def __init__(self, code, *parameters):
        super().__init__(code, *parameters)
        self.code = code
        self.description = [str(code)] + [str(parameter) for parameter in parameters]

    def __str__(self):
        return "[%s]" % ", ".join(self.description)

    @classmethod
    def of(cls, description):
        """The failure of an ErrorDescription that came from elsewhere."""
        return cls(*description)


def internal_error(error):
    """What an unexpected exception is reported as."""
    return Failure("INTERNAL_ERROR", "%s: %s" % (type(error).__name__, error))
