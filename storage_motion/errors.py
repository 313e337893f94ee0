"""What can go wrong, as types. Each reaches the user as a XenAPI failure: a stable code, then its details."""


class MotionError(Exception):
    """Something that this product found wrong. `code` is stable: scripts may compare it."""
    code = "SXM_ERROR"

    def __init__(self, *details):
        """`details`: strings, in the order in which the failure lists them after its code."""
        super(MotionError, self).__init__(*details)
        self.details = [str(detail) for detail in details]

    def failure(self):
        """The XenAPI error description: [code, detail, ...]."""
        return [self.code] + self.details

    def __str__(self):
        return "%s: %s" % (self.code, ", ".join(self.details))


class BadArguments(MotionError):
    """One detail for each wrong argument: its name, what is wrong with it, what would be right."""
    code = "SXM_BAD_ARGUMENTS"
