"""What else models can do, and what a student forgot: a folder of lm-evaluation-harness tasks, asked of each.

The harness runs in a process of its own (`factory.suite_worker`) and asks the served models over HTTP, all in
one session of their server; nothing is fetched. Its answers and scores come back item by item and are stored
as evaluations of no round, its requests are counted (`factory.suite_requests`). Which task means what is the
harness's.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from factory.by_hand import describe_contender, differ, find_contenders, record_contender
from factory.contender import Proven, proven
from factory.errors import FactoryError, InputError, RecipeError
from factory.evaluations import record_by_hand
from factory.models.folders import find_model
from factory.models.vllm_log import read_tail
from factory.servers import VllmServer
from factory.significance import holm, wilson
from factory.suite_requests import counted
from factory.suite_worker import OVER
from factory.types import Evaluation, ItemResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from factory.bench import Bench
    from factory.proof import Place

PACKAGES: Final = ("lm_eval", "tenacity", "datasets", "transformers")
OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
RESULTS: Final = "results.json"
MAX_LENGTH: Final = 2048  # tokens, where an endpoint does not tell


def check_suite(folder: Path) -> Path:
    """The folder, absolute; raises InputError where a task cannot be asked or there is no harness."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        what = f"lm-evaluation-harness is not installed ({', '.join(missing)})"
        raise InputError(what, where="--suite", hint="pip install 'dataset-factory[suite]'")
    if not any(folder.rglob("*.yaml")):
        what = f"there is no task in {folder}"
        raise InputError(what, where="--suite", hint="a folder with a YAML file for each task")
    folder = folder.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        job = json.dumps({"folder": str(folder), "models": []}).encode()
        words, environment = _worker(Path(scratch))
        done = subprocess.run(words, input=job, capture_output=True, env=environment, check=False)  # noqa: S603
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), f"exit code {done.returncode}")
            raise FactoryError(f"the harness failed: {last[:300]}", where=str(folder))
        _read_results(Path(scratch))
    return folder


def _worker(scratch: Path) -> tuple[list[str], dict[str, str]]:
    """The words and the environment that start the harness; its results come into `scratch`."""
    words = [sys.executable, "-m", "factory.suite_worker", str(scratch / RESULTS)]
    return words, {**os.environ, **OFFLINE, "HF_DATASETS_CACHE": str(scratch / "datasets")}


def _read_results(scratch: Path) -> dict[str, Any]:
    """What the worker wrote; raises InputError where it refused the folder."""
    found: dict[str, Any] = json.loads((scratch / RESULTS).read_text(encoding="utf-8"))
    if refused := found.get("refused"):
        raise InputError(refused["what"], where=refused["where"], hint=refused["hint"])
    return found


async def evaluate_suite(bench: Bench, words: Sequence[str], folder: Path) -> dict[str, Any]:
    """What `factory evaluate --suite` prints: every model's result of each task, and how it differs.

    Raises InputError, RecipeError or FactoryError where models cannot be asked so, or the harness fails, and
    BudgetExceeded where nothing is left before, or the run's minutes end meanwhile.
    """
    bench.engine.budget.refuse_if_spent(bench.recipe.models["student"].price)
    async with AsyncExitStack() as stack:
        served = [
            await stack.enter_async_context(proven(bench, each)) for each in find_contenders(bench, words)
        ]
        told = await run_harness(bench, folder, [(each, await place_of(bench, each)) for each in served])
    models = []
    first: dict[str, Evaluation] = {}
    for each, found in zip(served, told["models"], strict=True):
        evaluations = {task["task"]: read_evaluation(each.model_id, task) for task in found["tasks"]}
        record_contender(bench, each)
        for evaluation in evaluations.values():
            record_by_hand(bench, evaluation)
        models.append(describe(bench, each, evaluations, words[0], first))
        first = first or evaluations
    return {"run": bench.run_id, "suite": str(folder), "harness": told["version"], "models": models}


async def place_of(bench: Bench, served: Proven) -> Place:
    """Where the harness asks a model: one of its replicas; raises RecipeError where that cannot be."""
    model = await bench.pool.model("student", served.folder)
    place = getattr(model, "replicas", (model,))[0]
    url = (await place.address())[0] if hasattr(place, "address") else ""
    if not url.startswith("http"):
        where = f"models.student.server: {bench.recipe.models['student'].server}"
        hint = "a suite needs a server with `run_as: server`, or an endpoint"
        raise RecipeError("nobody else can ask the student", where=where, hint=hint)
    return cast("Place", place)


async def run_harness(bench: Bench, folder: Path, asked: Sequence[tuple[Proven, Place]]) -> dict[str, Any]:
    """The worker's results; its output goes to a log in the workspace."""
    log = bench.workspace / "logs" / "suite.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    addresses = [await place.address() for _, place in asked]
    listed = await asked[0][1].list_models()
    lengths = [each.max_model_len for each in listed.values() if each.max_model_len]
    job: dict[str, Any] = {
        "folder": str(folder),
        "tokenizer": find_tokenizer(bench),
        "max_length": min(lengths, default=MAX_LENGTH),
        "models": [
            {"name": place.name, "base_url": url}
            for (_, place), (url, _) in zip(asked, addresses, strict=True)
        ],
    }
    bench.progress.note(f"lm-evaluation-harness asks {len(asked)} models, log in {log}")
    with tempfile.TemporaryDirectory() as scratch:
        words, environment = _worker(Path(scratch))
        environment["OPENAI_API_KEY"] = addresses[0][1] or "none"
        sent = Path(scratch) / "sent.jsonl"
        models = {place.name: served.model_id for served, place in asked}
        price, budget = bench.recipe.models["student"].price, bench.engine.budget
        job |= {"sent": str(sent), "left": budget.left(), "price": price.model_dump()}
        try:
            with counted(bench, models, sent, folder):
                async with asyncio.timeout(budget.seconds_left()):
                    await _run(words, json.dumps(job).encode(), environment, log)
        except TimeoutError:
            raise budget.exceeded("minutes") from None
        except FactoryError:
            if (over := sent.with_suffix(OVER)).exists():
                raise budget.exceeded(over.read_text(encoding="utf-8")) from None
            raise
        found = _read_results(Path(scratch))
    for warning in found["warnings"]:
        bench.progress.note(f"lm-evaluation-harness: {warning}")
    return found


async def _run(words: Sequence[str], job: bytes, environment: Mapping[str, str], log: Path) -> None:
    """Runs the worker to its end; it ends with its caller. Raises FactoryError with its last words."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.PIPE, stdout=output, stderr=output, env=environment
        )
        try:
            await process.communicate(job)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode:
        lines = read_tail(log)
        last = lines[-1] if lines else f"exit code {process.returncode}"
        raise FactoryError(f"the harness failed: {last[:300]}", hint=f"the whole log is in {log}")


def find_tokenizer(bench: Bench) -> str:
    """What loads as the tokenizer of the student's base: its folder or hub name."""
    server = bench.recipe.servers[bench.recipe.models["student"].server]
    if isinstance(server, VllmServer):
        return find_model(bench.domain.folder, server.model)[0]
    if "student" in bench.recipe.training:
        return find_model(bench.domain.folder, bench.recipe.training["student"].base)[0]
    raise RecipeError(
        "the base of the student is not known, whose tokenizer the harness needs",
        where="training.student.base",
        hint="name it",
    )


def read_evaluation(model_id: str, task: Mapping[str, Any]) -> Evaluation:
    """A task's result; raises FactoryError where its scores are no shares."""
    name, metric, found = task["task"], f"{task['task']}/{task['metric']}", task["items"]
    items = tuple(
        ItemResult(
            key=f"{name}-{item['number']}",
            slice=name,
            cluster=f"{name}-{item['number']}",
            question=item["question"],
            expected=item["expected"],
            answer=item["answer"],
            score=item["score"],
            call_id="",
        )
        for item in found
    )
    if not all(0 <= item.score <= 1 for item in items):
        what = f"the scores of '{metric}' do not lie between 0 and 1"
        raise FactoryError(what, where=f"task {name}", hint="put another metric first in its `metric_list`")
    mean = sum(item.score for item in items) / len(items)
    return Evaluation(model_id, "suite", metric, mean, *wilson(mean, len(items)), items)


def describe(
    bench: Bench,
    served: Proven,
    evaluations: Mapping[str, Evaluation],
    against: str,
    first: Mapping[str, Evaluation],
) -> dict[str, Any]:
    """A model's results with their differences from the first one's; p-values by Holm over the tasks."""
    tasks: list[dict[str, Any]] = [
        {
            "task": name,
            "metric": each.metric.removeprefix(f"{name}/"),
            "num_items": len(each.items),
            "mean": each.mean,
            "low": each.low,
            "high": each.high,
        }
        for name, each in evaluations.items()
    ]
    if first:
        found = [
            differ(bench.evaluator, against, first[task["task"]], evaluations[task["task"]]) for task in tasks
        ]
        for task, difference, p_value in zip(
            tasks, found, holm([each.p_value for each in found]), strict=True
        ):
            task["difference"] = asdict(difference) | {"p_value": p_value}
    return {**describe_contender(served), "tasks": tasks}
