"""From a call's name and parameters to its answer."""
import logging

from lab.xapi import calls
from lab.xapi.context import Context
from lab.xapi.failures import Failure, internal_error

log = logging.getLogger("xapi.dispatch")


class Dispatcher:
    """Answers API calls on the pool's master."""

    def __init__(self, pool):
        self._pool = pool

    def answer(self, name, parameters, local, host_uuid):
        """(value, None), or (None, the error description). A call's changes are on disk before it is answered."""
        try:
            value = self._call(name, parameters, local, host_uuid)
            self._pool.wait_durable()
            return value, None
        except Failure as failure:
            log.info("%s failed: %s", name, failure.description[0])
            return None, failure.description
        except Exception as error:                  # a bug here must not leave the client without an answer
            log.exception("%s failed", name)
            return None, internal_error(error).description

    def _call(self, name, parameters, local, host_uuid):
        is_async = name.startswith("Async.")
        to_call = calls.find(name[len("Async."):] if is_async else name)
        if is_async and not to_call.is_async:
            raise Failure("MESSAGE_METHOD_UNKNOWN", name)
        context = Context(self._pool, local=local, host_uuid=host_uuid)
        if to_call.needs_session:
            if not parameters:
                raise Failure("MESSAGE_PARAMETER_COUNT_MISMATCH", to_call.name, len(to_call.parameters), -1)
            context.session, parameters = parameters[0], parameters[1:]
            if not isinstance(context.session, str):
                raise Failure("SESSION_INVALID", str(context.session))
            self._pool.sessions.check(context.session)
        arguments = calls.arguments(to_call, parameters)
        if not is_async:
            return to_call.function(context, *arguments)
        task = self._pool.tasks.create(name, host=self._pool.own_host)
        within = context.within(task)
        self._pool.tasks.run(task, lambda: to_call.function(within, *arguments), self._pool.wait_durable)
        return task
