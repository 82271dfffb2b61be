"""For all tests: none of a property may fail because the machine is busy; some run in both event loops.

Several workers take files in the order in which they are collected, those first that start servers or
trainings: xdist would hand out last what has the fewest tests, which are the longest files, and then wait.
"""

import asyncio

import uvloop
from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
IN_BOTH = {"test_client.py", "test_connection.py", "test_wire.py", "test_in_process.py"}


def pytest_asyncio_loop_factories(config, item):
    return LOOPS if item.path.name in IN_BOTH else {"asyncio": LOOPS["asyncio"]}


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    slow = {item.path for item in items if any(map(item.get_closest_marker, ("vllm", "train")))}
    items.sort(key=lambda item: item.path not in slow)
