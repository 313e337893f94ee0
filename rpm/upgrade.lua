-- %pre: a migration has one version from its begin to its end, on both hosts.
refuse_while_running("installed or upgraded")
