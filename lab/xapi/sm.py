# SPDX-License-Identifier: LGPL-2.1-only
"""The SM objects: one for each storage driver that a host of the pool has."""

import logging

from lab.xapi.failures import Failure

log = logging.getLogger("xapi.sm")


def register_drivers(pool, host):
    """Ask each driver of `host` what it can do, and keep an SM object for it; one that does not
    answer is left out.

    What the master's xapi.conf does not allow any more, and no SR needs, is forgotten
    (storage_access.ml, on_xapi_start)."""
    drivers = pool.on_host(host, "drivers")
    if host == pool.own_host:
        needed = {driver.lower() for driver in drivers} | {
            record["type"] for record in pool.database.records("SR").values()
        }
        for ref, record in pool.database.records("SM").items():
            if record["type"] not in needed:
                pool.database.destroy("SM", ref)
    for driver in drivers:
        try:
            _register(pool, host, driver)
        except Failure as failure:
            log.error("rejecting SM plugin %s: %s", driver, failure)


def _register(pool, host, driver):
    database, sr_type = pool.database, driver.lower()
    filename = "/opt/xensource/sm/%sSR" % driver
    existing = database.where("SM", type=sr_type)
    if not existing:
        existing = [database.create("SM", {"type": sr_type, "driver_filename": filename})]
    try:
        info = pool.storage.run_driver(
            host, sr_type, "sr_get_driver_info", [], {}, needs_session=False
        )
        fields = _fields(info)
    except Failure:
        if not database.get("SM", existing[0], "name_label"):
            database.destroy("SM", existing[0])
        raise
    database.set("SM", existing[0], driver_filename=filename, **fields)


def _fields(info):
    try:
        features = [text.partition("/") for text in info["capabilities"]]
        return {
            "name_label": info["name"],
            "name_description": info["description"],
            "vendor": info["vendor"],
            "copyright": info["copyright"],
            "version": info["driver_version"],
            "required_api_version": info["required_api_version"],
            "capabilities": [name for name, _, _ in features],
            "features": {name: int(version or 1) for name, _, version in features},
            "configuration": {item["key"]: item["description"] for item in info["configuration"]},
            "supported_image_formats": list(info.get("supported_image_formats", [])),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Failure("SR_BACKEND_FAILURE", "", "sr_get_driver_info: %r" % error, "") from None
