# SPDX-License-Identifier: LGPL-2.1-only
"""From a call's name and parameters to its answer."""

import logging

from lab.xapi import calls, late_calls
from lab.xapi.context import Context
from lab.xapi.failures import Failure, internal_error
from lab.xapi.model import Type
from lab.xapi.schema import coerce

_SESSION = Type("ref", ("session",))

log = logging.getLogger("xapi.dispatch")


class Dispatcher:
    """Answers API calls on the pool's master."""

    def __init__(self, pool):
        self._pool = pool

    def answer(self, name, parameters, local, host_uuid):
        """(value, None), or (None, the error description). A call's changes are on disk before it
        is answered."""
        try:
            value = self._call(name, parameters, local, host_uuid)
            self._pool.wait_durable()
            return value, None
        except Failure as failure:
            log.info("%s failed: %s", name, failure.description[0])
            return None, failure.description
        except Exception as error:  # a bug here must not leave the client without an answer
            log.exception("%s failed", name)
            return None, internal_error(error).description

    def _call(self, name, parameters, local, host_uuid):
        is_async = name.startswith("Async.")
        name = name[len("Async.") :] if is_async else name
        if name == "system.listMethods":
            return sorted(calls.REGISTRY)
        context = Context(self._pool, local=local, host_uuid=host_uuid)
        to_call = calls.find(name)
        if to_call is None:
            self._refuse_unknown(name, parameters)
        if to_call.needs_session:
            context.session, parameters = (
                (parameters[0], parameters[1:]) if parameters else (None, None)
            )
        arguments = calls.arguments(to_call, parameters)
        if is_async and not to_call.is_async:
            raise Failure("Fault", "No async mode for this operation (rpc: %s)" % name)
        root = self._pool.config.root
        with late_calls.standing_still(root, name, arguments) as moment:
            moment(late_calls.ARRIVED)
            if to_call.needs_session:
                self._pool.sessions.check(coerce(context.session, _SESSION, "session_id"))
            moment(late_calls.CHECKED)
            if not is_async:
                return to_call.function(context, *arguments)
            return self._begin(name, to_call, context, arguments)

    def _begin(self, name, to_call, context, arguments):
        task = self._pool.tasks.create("Async." + name, host=self._pool.own_host)
        within = context.within(task)
        self._pool.tasks.run(
            task, lambda: to_call.function(within, *arguments), self._pool.wait_durable
        )
        return task

    def _refuse_unknown(self, name, parameters):
        """As xapi does, which looks for an extension of that name, and so at the session, first
        (gen_server.ml)."""
        if parameters:
            self._pool.sessions.check(coerce(parameters[0], _SESSION, "session_id"))
        raise Failure("MESSAGE_METHOD_UNKNOWN", name)
