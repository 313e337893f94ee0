# SPDX-License-Identifier: LGPL-2.1-only
"""host.call_plugin: a program of dom0, run with a method call as its argument, answering on its
standard output."""

import xmlrpc.client

from lab.xapi import wire
from lab.xapi.calls import call
from lab.xapi.failures import Failure


def _failed(*details):
    return Failure("XENAPI_PLUGIN_FAILURE", *details)


@call("host.call_plugin", "host:ref(host) plugin:string fn:string args:map(string,string)")
def call_plugin(context, host, plugin, fn, args):
    """The string that the plugin answers. Raises the plugin's own failure, XENAPI_MISSING_PLUGIN,
    XENAPI_PLUGIN_FAILURE."""
    context.database.get("host", host, "uuid")
    document = wire.xml_call(fn, (context.session, args))
    return _answer(context.pool.on_host(host, "run_plugin", name=plugin, call=document))


def _answer(ended):
    output, errors = ended["stdout"], ended["stderr"]
    if ended["signal"]:
        raise _failed("signal: %s" % ended["signal"], output, errors)
    if ended["exit"] != 0:
        raise _failed("non-zero exit", output, errors)
    try:
        (answer,), _ = wire.parse_xmlrpc(output)
    except xmlrpc.client.Fault as fault:
        raise _failed("fault", fault.faultCode, fault.faultString) from None
    except (wire.Malformed, ValueError) as error:
        raise _failed("failed to parse plugin output", output, error) from None
    if isinstance(answer, dict):
        if answer.get("Status") == "Success" and isinstance(answer.get("Value"), str):
            return answer["Value"]
        if answer.get("Status") == "Failure" and answer.get("ErrorDescription"):
            raise Failure.of(answer["ErrorDescription"])
    raise _failed("unexpected XMLRPC result", output)
