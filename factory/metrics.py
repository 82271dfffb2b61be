"""The figures of the progress line for Prometheus, at http://127.0.0.1:PORT/metrics while a command runs.

They are read from the engine and the stages when somebody asks, so that they cost nothing where nobody does.
A thread of its own answers, on loopback alone, to whoever is on this machine: there are only numbers, and
names of stages and servers. What earlier processes did stands in the store, not here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from factory.counts import Rate
from factory.errors import InputError
from factory.watch import ACTIONS

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from factory.engine import Engine
    from factory.progress import Progress

ADDRESS: Final = "127.0.0.1"


@contextmanager
def serve_metrics(port: int | None, engine: Engine, progress: Progress) -> Iterator[None]:
    """While it is open the figures can be read at `port`; None: nowhere.

    Raises InputError where the port is taken.
    """
    if port is None:
        yield
        return
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(Figures(engine, progress))
    try:
        server, thread = start_http_server(port, ADDRESS, registry)
    except OSError as error:
        what = f"port {port} of {ADDRESS} cannot be used: {error.strerror or error}"
        raise InputError(what, where="--metrics", hint="choose another") from None
    progress.note(f"metrics at http://{ADDRESS}:{port}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Figures:
    """A collector of prometheus_client: what an engine and the stages of a command have come to."""

    def __init__(self, engine: Engine, progress: Progress) -> None:
        self._engine = engine
        self._progress = progress
        self._calls, self._tokens = Rate(), Rate()

    def collect(self) -> Iterator[Metric]:
        """Every figure, as it is now."""
        yield from self._samples()
        yield from self._answers()
        yield from self._load()

    def _samples(self) -> Iterator[Metric]:
        stages = list(self._progress.stages.values())
        known = [(stage.name, stage.values) for stage in stages]
        made = {(name,): values["made"] for name, values in known if "made" in values}
        settled = {
            (name, action): values[key]
            for name, values in known
            for key, action in ACTIONS.items()
            if key in values
        }
        accepted = {(name,): num for (name, action), num in settled.items() if action == "keep"}
        done = {(stage.name,): stage.done for stage in stages}
        total = {(stage.name,): stage.total for stage in stages if stage.total is not None}
        yield _counter("samples_made", "Tasks of generators that are finished.", made, "stage")
        yield _counter("samples_accepted", "Samples that every refiner let pass.", accepted, "stage")
        yield _counter("samples_refined", "Samples that are settled, by action.", settled, "stage", "action")
        yield _gauge("stage_done", "Units of a stage that are done.", done, "stage")
        yield _gauge("stage_planned", "Units of a stage in all, where that is known.", total, "stage")

    def _answers(self) -> Iterator[Metric]:
        counts = self._engine.counts
        tokens = {("prompt",): counts.prompt_tokens, ("completion",): counts.completion_tokens}
        failed = {(kind,): num for kind, num in counts.failed.items()}
        yield _counter("calls_answered", "Calls that a model answered.", {(): counts.num_answered})
        yield _counter("calls_found", "Calls whose answer was in the store.", {(): counts.num_found})
        yield _counter("calls_asked_again", "Answers that were not as asked.", {(): counts.num_asked_again})
        yield _counter("calls_failed", "Calls that were given up, by kind.", failed, "kind")
        yield _counter("tokens", "Tokens that models read and wrote.", tokens, "kind")
        yield _counter("dollars", "What the calls cost, by the recipe's prices.", {(): counts.dollars})
        calls, written = self._calls.update(counts.num_answered), self._tokens.update(counts.num_tokens)
        yield _gauge("calls_per_second", "Calls answered lately.", {(): calls})
        yield _gauge("tokens_per_second", "Tokens read and written lately.", {(): written})

    def _load(self) -> Iterator[Metric]:
        replicas = {
            (server, str(index)): replica
            for server, slots in self._engine.slots.items()
            for index, replica in enumerate(slots.replicas)
        }
        in_flight = {place: replica.num_in_flight for place, replica in replicas.items()}
        limit = {place: replica.limit for place, replica in replicas.items()}
        up = {place: int(not replica.is_down) for place, replica in replicas.items()}
        yield _gauge("calls_in_flight", "Calls at a server now.", in_flight, "server", "replica")
        yield _gauge("concurrency_limit", "Calls in flight that it may get now.", limit, "server", "replica")
        yield _gauge("replica_up", "0 where its latest calls all failed.", up, "server", "replica")


def _counter(name: str, meaning: str, values: Mapping[Any, float], *labels: str) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily(f"factory_{name}", meaning, labels=labels), values)


def _gauge(name: str, meaning: str, values: Mapping[Any, float], *labels: str) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(f"factory_{name}", meaning, labels=labels), values)


def _filled(family: Any, values: Mapping[Any, float]) -> Metric:
    for labels, value in values.items():
        family.add_metric(labels, value)
    metric: Metric = family
    return metric
