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


class DataPathError(MotionError):
    """Something wrong on the way of the bytes, between the source's tapdisk and the destination's."""
    code = "SXM_DATA_PATH"


class ProtocolError(DataPathError):
    """A peer said something that its protocol does not allow."""
    code = "SXM_PROTOCOL"


class ConnectionLost(DataPathError):
    """A peer has gone, or did not answer within its bound."""
    code = "SXM_CONNECTION_LOST"


class PeerRefused(DataPathError):
    """The other side understood, and said no. Detail: its reason."""
    code = "SXM_PEER_REFUSED"


class RequestFailed(DataPathError):
    """A disk answered a request with an error. `errno`: its number."""
    code = "SXM_IO_ERROR"

    def __init__(self, number, *details):
        super(RequestFailed, self).__init__(*details)
        self.errno = number


class CertificateMismatch(DataPathError):
    """The receiver's certificate is not the one that its host named. Details: expected, found (SHA-256)."""
    code = "SXM_CERTIFICATE_MISMATCH"


class DigestMismatch(DataPathError):
    """What the destination reads back is not what the source has. Details: offset, length in bytes."""
    code = "SXM_DIGEST_MISMATCH"


class MirrorBroken(DataPathError):
    """The mirror has been closed, and the guest runs on alone. Detail: why."""
    code = "SXM_MIRROR_BROKEN"


class NotFinished(DataPathError):
    """A disk cannot be handed over yet, or never: its mirror did not end cleanly or its copy is not verified."""
    code = "SXM_NOT_FINISHED"
