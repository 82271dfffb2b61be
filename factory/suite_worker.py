"""Runs a folder of lm-evaluation-harness tasks against models that are served, in a process of its own.

    python -m factory.suite_worker RESULTS < JOB

JOB is JSON: `folder` of tasks, `tokenizer`, `max_length` in tokens, `models` with `name` and `base_url` of
an OpenAI-compatible endpoint, whose key is in OPENAI_API_KEY, `sent`, a file that gets a line for each
request and reply, `left`, limits by name, `price` of a million tokens. Without models the tasks are checked.
RESULTS is written as JSON: for each model the tasks, each with answer and score of every item; or, as
`refused`, what is wrong with the folder. Only this process imports the harness, which is what
`pip install 'dataset-factory[suite]'` brings.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

from factory.errors import InputError
from factory.suite_tasks import check_tasks

OVER: Final = ".over"
COUNTED: Final = "counted-completions"
CONCURRENCY: Final = 8  # more than 1: then the harness asks without the environment's proxies
TIMEOUT_SECONDS: Final = 600


def run(job: dict[str, Any]) -> dict[str, Any]:
    """The results of every model; raises InputError for its tasks, and all else as the harness raises it."""
    from lm_eval import __version__, simple_evaluate
    from lm_eval.tasks import TaskManager

    warnings = Warnings()
    logging.getLogger("lm_eval").addHandler(warnings)
    count_requests(Path(job["sent"]), job["left"], job["price"])
    tasks = TaskManager(include_path=job["folder"], include_defaults=False)
    names = sorted(tasks.all_subtasks)
    models = []
    for model in job["models"]:
        arguments = {
            "model": model["name"],
            "base_url": f"{model['base_url'].rstrip('/')}/completions",
            "tokenizer": job["tokenizer"],
            "tokenizer_backend": "huggingface",
            "max_length": job["max_length"],
            "num_concurrent": CONCURRENCY,
            "timeout": TIMEOUT_SECONDS,
        }
        found = simple_evaluate(
            model=COUNTED,
            model_args=arguments,
            tasks=names,
            task_manager=tasks,
            apply_chat_template=True,
            log_samples=True,
            bootstrap_iters=0,
        )
        samples = (found or {})["samples"]
        models.append({"name": model["name"], "tasks": [read_task(name, samples[name]) for name in names]})
    return {"version": __version__, "models": models, "warnings": warnings.told()}


def count_requests(sent: Path, left: dict[str, float], price: dict[str, float]) -> None:
    """Registers `COUNTED`: the harness's client of completions, with a meter."""
    from lm_eval.api.registry import register_model
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    meter = Meter(sent, left, price)

    @register_model(COUNTED)
    class Counted(LocalCompletionsAPI):  # type: ignore[misc]
        def _create_payload(self, *args: Any, **more: Any) -> Any:  # once for each attempt
            meter.request(self.model)
            return super()._create_payload(*args, **more)

        def parse_generations(self, outputs: Any, **more: Any) -> Any:
            meter.reply(self.model, outputs)
            return super().parse_generations(outputs=outputs, **more)

        def parse_logprobs(self, outputs: Any, **more: Any) -> Any:
            meter.reply(self.model, outputs)
            return super().parse_logprobs(outputs=outputs, **more)


class Meter:
    """Writes each request and reply into a file as it comes; at a limit it names that and ends the process.

    What is in flight then is not known.
    """

    def __init__(self, sent: Path, left: dict[str, float], price: dict[str, float]) -> None:
        self._sent, self._left, self._price = sent, left, price
        self._used = dict.fromkeys(("calls", "tokens", "dollars"), 0.0)

    def request(self, model: str) -> None:
        """An attempt that is about to leave."""
        self._used["calls"] += 1
        self._end_beyond()
        self._write(model, 1, 0, 0)

    def reply(self, model: str, outputs: Any) -> None:
        """The tokens that a reply says it took; limits of these are passed by what was in flight."""
        usage = (outputs.get("usage") if isinstance(outputs, dict) else None) or {}
        tokens = {kind: usage.get(f"{kind}_tokens") or 0 for kind in ("prompt", "completion")}
        self._used["tokens"] += sum(tokens.values())
        self._used["dollars"] += sum(self._price[kind] * num for kind, num in tokens.items()) / 1_000_000
        self._write(model, 0, *tokens.values())

    def _end_beyond(self) -> None:
        for name, limit in self._left.items():
            if self._used[name] > limit or (name != "calls" and self._used[name] >= limit):
                self._sent.with_suffix(OVER).write_text(name, encoding="utf-8")
                os._exit(1)  # at once: the harness takes an error for one to be tried again

    def _write(self, model: str, *numbers: int) -> None:
        with self._sent.open("a", encoding="utf-8") as file:
            file.write(json.dumps([model, *numbers]) + "\n")


class Warnings(logging.Handler):
    """What the harness warns of, such as prompts that it cut: each text once, with how often it came."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Counts it by its first line without numbers, which differ from prompt to prompt."""
        self.counts[re.sub(r"\d+", "N", record.getMessage().partition("\n")[0])] += 1

    def told(self) -> list[str]:
        """A line for each."""
        return [f"{text} ({count} times)" if count > 1 else text for text, count in self.counts.items()]


def read_task(name: str, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A task's items by its first metric and filter, in the order of its documents.

    Raises InputError where there are none, or the harness gives an item no score.
    """
    where = f"task '{name}'"
    if not samples:
        raise InputError("it has no items", where=where, hint="put some into its data file")
    kept = samples[0]["filter"]
    rows = sorted((each for each in samples if each["filter"] == kept), key=lambda each: each["doc_id"])
    metric = next(iter(rows[0]["metrics"]), None)
    if metric is None:
        raise InputError("no metric goes with its `output_type`", where=where, hint="see its `metric_list`")
    try:
        return {"task": name, "metric": metric, "items": [read_item(row, metric) for row in rows]}
    except TypeError as error:  # such as a perplexity, which is that of all items
        what = f"its metric '{metric}' gives no score of an item: {error}"
        raise InputError(what, where=where, hint="put another first in its `metric_list`") from error


def read_item(row: dict[str, Any], metric: str) -> dict[str, Any]:
    """What was asked, expected and answered: of several choices the likeliest one."""
    asked = row["arguments"]
    answers = row["filtered_resps"]
    if len(asked) > 1:  # log-likelihoods, one for each choice
        likelihoods = [each[0] if isinstance(each, list | tuple) else each for each in answers]
        answer = asked[likelihoods.index(max(likelihoods))][1]
        expected = asked[row["target"]][1] if isinstance(row["target"], int) else row["target"]
    else:
        answer, expected = answers[0], row["target"]
    return {
        "number": row["doc_id"],
        "question": asked[0][0],
        "expected": str(expected).strip(),
        "answer": str(answer).strip(),
        "score": float(row[metric]),
    }


def main() -> None:
    """Reads the job, writes the results. Data files of a task are relative to the folder of tasks."""
    job = json.load(sys.stdin)
    os.chdir(job["folder"])
    try:
        found = run(job) if job["models"] else {"tasks": check_tasks(Path(job["folder"]))}
    except InputError as error:
        found = {"refused": {"what": error.what, "where": error.where, "hint": error.hint}}
    Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
