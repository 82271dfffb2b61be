"""For all tests: none of a property may fail because the machine is busy; some run in both event loops."""

import asyncio

import uvloop
from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
IN_BOTH = {"test_client.py", "test_connection.py", "test_wire.py", "test_in_process.py"}


def pytest_asyncio_loop_factories(config, item):
    return LOOPS if item.path.name in IN_BOTH else {"asyncio": LOOPS["asyncio"]}
