"""Whether adapter, merged model and vLLM give the same greedy answers to prompts of the quickstart.

A student of a workspace is asked four ways: by transformers as it was trained, the adapter on its base in
4 bit; by transformers as `factory merge` writes it; by vLLM, the adapter on the base as it serves it; and by
vLLM, the merged model. Asked are the questions of dev and test, and then those of the samples that it was
trained on, by their hashes, until there are enough. Answers are compared token by token. Where two part, the
first tokens that differ are told with the lead that each has over the next one, in nats of log probability:
a lead that is smaller than what one and the same token's log probability differs by elsewhere is a near tie.

    python -m benchmarks.same_answers --workspace workspace
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from factory.accuracy import Selects
from factory.merge import HowToMerge, find_adapter, find_student, merge
from factory.models.vllm_command import BASE_NAME, find_dtype
from factory.models.vllm_server import VllmProcess
from factory.progress import Progress
from factory.servers import VllmServer
from factory.session import open_domain
from factory.store.queries import Reader
from factory.store.text import from_json

DOMAIN, PROFILE = Path(__file__).parents[1] / "recipes" / "georgia_workers_comp", "tiny"
ADAPTER, MERGED, SERVED, SERVED_MERGED = WAYS = (
    "adapter, 4 bit, transformers",
    "merged, transformers",
    "adapter, vLLM",
    "merged, vLLM",
)
MAX_TOKENS = 32  # as the profile has it

EVALUATED = """
    SELECT e.split AS origin, i.item_key AS key, c.request->'messages' AS messages
    FROM evaluations e JOIN evaluation_items i ON i.evaluation_id = e.id JOIN calls c ON c.id = i.call_id
    WHERE e.model_id = ? QUALIFY row_number() OVER (PARTITION BY e.split, i.item_key ORDER BY e.id) = 1
    ORDER BY e.split, i.item_key
"""
TRAINED = """
    SELECT 'trained on' AS origin, s.id AS key, s.messages FROM models m
    JOIN dataset_samples d ON d.dataset_id = m.dataset_id JOIN samples s ON s.id = d.sample_id
    WHERE m.id = ? ORDER BY md5(s.id) LIMIT ?
"""


class Token(NamedTuple):
    """One that was chosen: its number and log probability, and those of the next best."""

    id: int
    logprob: float
    next_id: int
    next_logprob: float

    @property
    def lead(self) -> float:
        """How much more likely than the next best, in nats."""
        return self.logprob - self.next_logprob


Answer = list[Token]
Answers = dict[str, list[Answer]]


class Parting(NamedTuple):
    """The first place at which two answers to a prompt differ."""

    prompt: int
    position: int
    first: Token
    second: Token


def read_prompts(store: Selects, model_id: str, num: int) -> list[dict[str, Any]]:
    """What is asked: of each its origin, and the messages up to the answer."""
    rows = store.select(EVALUATED, (model_id,))[:num]
    rows += store.select(TRAINED, (model_id, num - len(rows)))
    if len(rows) < num:
        raise SystemExit(f"the workspace has {len(rows)} prompts, {num} are wanted")
    prompts = [(row["origin"], from_json(row["messages"])) for row in rows]
    return [
        {"origin": origin, "messages": turns[:-1] if turns[-1]["role"] == "assistant" else turns}
        for origin, turns in prompts
    ]


def ask_transformers(model: Any, tokenizer: Any, prompts: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """The greedy answers, one prompt at a time."""
    import torch

    found = []
    for prompt in prompts:
        inputs = tokenizer.apply_chat_template(
            prompt["messages"], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        ).to(model.device)
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        best = [logits[0].double().log_softmax(-1).topk(2) for logits in output.logits]
        found.append(
            [
                Token(
                    top.indices[0].item(), top.values[0].item(), top.indices[1].item(), top.values[1].item()
                )
                for top in best
            ]
        )
    return found


@asynccontextmanager
async def served(spec: VllmServer, folder: Path) -> Any:
    """A server of ours."""
    server = VllmProcess("tiny", spec, DOMAIN, folder / "vllm.log", lambda text: print(text, file=sys.stderr))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def ask_vllm(
    spec: VllmServer, adapter: Path | None, prompts: Sequence[Mapping[str, Any]], folder: Path
) -> list[Answer]:
    """The greedy answers, all asked at once, as a round asks them."""
    from openai import AsyncOpenAI

    async with served(spec, folder) as server:
        if adapter is not None:
            await server.load_adapter("student", adapter)
        client = AsyncOpenAI(base_url=server.base_url, api_key=server.api_key, timeout=600)
        model = BASE_NAME if adapter is None else "student"

        async def ask(prompt: Mapping[str, Any]) -> Answer:
            said = await client.chat.completions.create(
                model=model,
                messages=prompt["messages"],
                temperature=0,
                max_tokens=MAX_TOKENS,
                logprobs=True,
                top_logprobs=2,
                extra_body={"return_tokens_as_token_ids": True},
            )
            content = said.choices[0].logprobs.content or []  # type: ignore[union-attr]
            return [read_token(each) for each in content]

        return list(await asyncio.gather(*map(ask, prompts)))


def read_token(told: Any) -> Token:
    """A token as vLLM tells it: by number, with the two that were likeliest."""
    chosen = number_of(told.token)
    other = next(each for each in told.top_logprobs if number_of(each.token) != chosen)
    return Token(chosen, told.logprob, number_of(other.token), other.logprob)


def number_of(name: str) -> int:
    """Of "token_id:17"."""
    return int(name.removeprefix("token_id:"))


def compare(first: list[Answer], second: list[Answer]) -> tuple[list[Parting], list[float]]:
    """Where answers part; and by how much the log probability of a token differs where both have it."""
    partings, differences = [], []
    for prompt, (ours, theirs) in enumerate(zip(first, second, strict=True)):
        for position, (one, other) in enumerate(zip(ours, theirs, strict=False)):
            if one.id != other.id:
                partings.append(Parting(prompt, position, one, other))
                break
            differences.append(abs(one.logprob - other.logprob))
        else:
            if len(ours) != len(theirs):  # both end by the same token, or not at all
                raise SystemExit(f"answers to prompt {prompt} are equal as far as the shorter one goes")
    return partings, differences


def report(answers: Answers, prompts: Sequence[Mapping[str, Any]], tokenizer: Any) -> dict[str, Any]:
    """Prints both tables; returns their figures."""
    found: dict[str, Any] = {}
    lines = []
    print("| pair | same answers | of | a token's log probability differs by: mean | at most |")
    print("|" + " --- |" * 5)
    for one, other in combinations(answers, 2):
        partings, differences = compare(answers[one], answers[other])
        same, mean = len(prompts) - len(partings), sum(differences) / len(differences)
        print(f"| {one} – {other} | {same} | {len(prompts)} | {mean:.2g} | {max(differences):.2g} |")
        for each in partings:
            origin = prompts[each.prompt]["origin"]
            tokens = " | ".join(
                f"{tokenizer.decode([token.id])!r} {token.logprob:.3f} over "
                f"{tokenizer.decode([token.next_id])!r} {token.next_logprob:.3f}"
                for token in (each.first, each.second)
            )
            lines.append(f"| {one} – {other} | {each.prompt} ({origin}) | {each.position} | {tokens} |")
        leads = [{"prompt": e.prompt, "leads": [e.first.lead, e.second.lead]} for e in partings]
        figures = {"same": same, "mean": mean, "max": max(differences), "partings": leads}
        found[f"{one} – {other}"] = figures
    if lines:
        print("\n| pair | prompt | position | first | second |\n|" + " --- |" * 5)
        print("\n".join(lines))
    return found


def ask_all(workspace: Path, num: int, folder: Path) -> tuple[Answers, list[dict[str, Any]], Any]:
    """The answers of each way, the prompts, and the tokenizer that they share."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from training.merge import read_record
    from training.merge_worker import load_with_adapter

    with Reader(workspace) as store:
        student = find_student(store, None)
        prompts = read_prompts(store, student["id"], num)
        adapter = find_adapter(workspace, student)
        merge(store, workspace, folder / "merged", Progress(), HowToMerge())
    base = read_record(adapter)["base"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    model, _ = load_with_adapter({"base": base, "adapter": str(adapter), "quantize": True})
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged")
    domain = open_domain(DOMAIN, PROFILE)
    spec = domain.recipe.servers[domain.recipe.models["student"].server]
    of_merged = spec.model_copy(update={"model": str(folder / "merged")})
    print(f"transformers computes in {model.dtype} with the adapter, in {merged.dtype} when merged")
    for name, each in (("base", spec), ("merged model", of_merged)):
        path = (domain.folder / each.model).resolve()
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        own = config.get("dtype") or config.get("torch_dtype")
        dtype = find_dtype(each, str(path), "cpu")
        print(f"vLLM serves the {name} in {own if dtype == 'auto' else dtype}")
    answers = {
        ADAPTER: ask_transformers(model, tokenizer, prompts),
        MERGED: ask_transformers(merged.eval(), tokenizer, prompts),
        SERVED: asyncio.run(ask_vllm(spec, adapter, prompts, folder)),
        SERVED_MERGED: asyncio.run(ask_vllm(of_merged, None, prompts, folder)),
    }
    return answers, prompts, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workspace", type=Path, help="of a quickstart; without it one is run")
    parser.add_argument("--prompts", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="factory-bench-") as name:
        workspace = given.workspace or Path(name) / "workspace"
        if given.workspace is None:
            words = ["run", str(DOMAIN), "--profile", PROFILE, "--workspace", str(workspace)]
            subprocess.run([sys.executable, "-m", "factory.cli", *words], check=True)
        answers, prompts, tokenizer = ask_all(workspace, given.prompts, Path(name))
        origins = [prompt["origin"] for prompt in prompts]
        counts = {origin: origins.count(origin) for origin in dict.fromkeys(origins)}
        print(f"{len(prompts)} prompts: " + ", ".join(f"{n} {origin}" for origin, n in counts.items()) + "\n")
        found = report(answers, prompts, tokenizer)
    print("\n" + json.dumps({"benchmark": "same_answers", "prompts": counts, "pairs": found}))


if __name__ == "__main__":
    main()
