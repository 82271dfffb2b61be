"""Every way of running vLLM, each started once: the same calls get the same texts, counts and reasons to end.

Over HTTP and in a process of ours a given answer is, besides, as likely as transformers says.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from factory.budget import Budget
from factory.engine import Engine
from factory.models.batch_log import BatchLog
from factory.models.pool import ModelPool
from factory.ports import Ask
from factory.recipe import BudgetSpec, Recipe
from factory.store.store import Store
from factory.types import Completion, Message, Sampling

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

TINY = Path(__file__).parents[1] / "tiny" / "models"
SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"enum": ["keep", "drop"]}, "days": {"type": "integer", "maximum": 99}},
    "required": ["verdict", "days"],
    "additionalProperties": False,
}
QUESTIONS = [f"How many days does rule {number} give a worker to file a claim?" for number in range(12)]


SECTION = "§ 34-9-80 Notice\nNotice of the accident is due within 30 days.\n\nHow long is notice?"
BUSY = Sampling(max_tokens=120, temperature=2.0)
CHATS = (
    (Message("user", SECTION), Message("assistant", "30 days (§ 34-9-80)")),
    (Message("user", SECTION), Message("assistant", "21 days (§ 34-9-80)")),
    (Message("user", ""), Message("assistant", "30 days (§ 34-9-80)")),
    (Message("user", "Who?"), Message("assistant", "\U0001f600 Zoë naïve,\n\n  日本 x ")),
    (
        Message("user", "Q?"),
        Message("assistant", "A."),
        Message("user", "And?"),
        Message("assistant", "A. A."),
    ),
)


class Found(NamedTuple):
    """What one way answered, by question, how likely it held each chat, and where its store is."""

    answers: dict[str, Completion]
    likely: list[Completion]
    folder: Path


Run = Callable[..., Found]


def recipe(run_as: str, replicas: int) -> Recipe:
    """In float32, as transformers below: bfloat16 is less exact than the tolerance."""
    served = {"kind": "vllm", "model": str(TINY / "base"), "max_model_len": 512, "device": "cpu"}
    return Recipe.model_validate(
        {
            "name": "test",
            "domain": {"title": "t"},
            "gold": {"dev": "dev.jsonl", "test": "test.jsonl"},
            "strategies": [{"name": "grounded"}],
            "servers": {"main": {**served, "dtype": "float32", "run_as": run_as, "replicas": replicas}},
            "models": {
                "student": {"server": "main"},
                "teacher": {"server": "main", "adapter": str(TINY / "teacher")},
            },
        }
    )


def tells_likelihoods(run_as: str, replicas: int) -> bool:
    """Whether this way is compared with transformers."""
    return run_as != "batch" and replicas == 1


def with_head(folder: Path) -> Path:
    """The teacher's adapter with weights for the head too, which change what every token is held for."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    shutil.copytree(TINY / "teacher", folder)
    file, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    options, base = json.loads(config.read_text()), json.loads((TINY / "base" / "config.json").read_text())
    config.write_text(json.dumps(options | {"target_modules": [*options["target_modules"], "lm_head"]}))
    drawn = torch.Generator().manual_seed(0)
    name, rank = "base_model.model.lm_head.lora_", options["r"]
    halves = {
        f"{name}A.weight": torch.randn(rank, base["hidden_size"], generator=drawn) / 10,
        f"{name}B.weight": torch.randn(base["vocab_size"], rank, generator=drawn) / 10,
    }
    save_file(load_file(file) | halves, file, metadata={"format": "pt"})
    return folder


@asynccontextmanager
async def opened(folder: Path, run_as: str, replicas: int) -> AsyncIterator[dict[str, Ask]]:
    """How base, adapter and, where it `tells_likelihoods`, one with a head are asked, by engine and pool."""
    made = recipe(run_as, replicas)
    with Store.open(folder) as store:
        pool = ModelPool(made, folder, folder, print)
        pool.batched.log = BatchLog(store, "run_1")
        engine = Engine(store, Budget(BudgetSpec()), "run_1")
        try:
            asks = {
                role: engine.ask(role, await pool.model(role), made.models[role], "generate", 1)
                for role in ("student", "teacher")
            }
            if tells_likelihoods(run_as, replicas):
                model = await pool.model("teacher", with_head(folder / "head"))
                asks["head"] = engine.ask("teacher", model, made.models["teacher"], "generate", 1)
            yield asks
        finally:
            await pool.close()


async def ask_everything(asks: Mapping[str, Ask]) -> dict[str, Completion]:
    """Plain, constrained and seeded questions to one after the other."""
    found = {}
    for role in ("student", "teacher"):
        ask = asks[role]
        asked = {f"{role} {text}": ask([Message("user", text)]) for text in QUESTIONS}
        asked |= {
            f"{role} json {text}": ask([Message("user", text)], schema=SCHEMA) for text in QUESTIONS[:4]
        }
        warm = Sampling(temperature=0.9, max_tokens=16, seed=5)
        asked[f"{role} warm"] = ask([Message("user", QUESTIONS[0])], sampling=warm)
        answers = await asyncio.gather(*asked.values())
        found |= dict(zip(asked, answers, strict=True))
    return found


async def ask_how_likely(asks: Mapping[str, Ask]) -> list[Completion]:
    """What each says to every chat, while all generate for others."""
    # Far more requests in the batch than the chats have tokens.
    others = [
        asyncio.create_task(ask([Message("user", f"Number {number}")], sampling=BUSY))
        for number in range(48)
        for ask in asks.values()
    ]
    await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED, timeout=1)
    assert not all(task.done() for task in others)
    one = Sampling(max_tokens=1)
    found = await asyncio.gather(
        *(ask(chat, sampling=one, given=True) for ask in asks.values() for chat in CHATS)
    )
    assert not all(task.done() for task in others), "they were alone in the end"
    await asyncio.gather(*others)
    return list(found)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What vLLM answers, run as it is said; each way is started once."""
    pytest.importorskip("vllm")
    known: dict[tuple[str, int], Found] = {}

    async def ask(folder: Path, run_as: str, replicas: int) -> Found:
        async with opened(folder, run_as, replicas) as asks:
            answers = await ask_everything(asks)
            likely = await ask_how_likely(asks) if tells_likelihoods(run_as, replicas) else []
            return Found(answers, likely, folder)

    def run(run_as: str, replicas: int = 1) -> Found:
        if (run_as, replicas) not in known:
            known[run_as, replicas] = asyncio.run(ask(tmp_path_factory.mktemp(run_as), run_as, replicas))
        return known[run_as, replicas]

    return run


def essence(found: Mapping[str, Completion]) -> dict[str, tuple[Any, ...]]:
    return {
        name: (each.text, each.reasoning, each.finish_reason, each.prompt_tokens, each.completion_tokens)
        for name, each in found.items()
    }


@pytest.mark.parametrize(("run_as", "replicas"), [("batch", 1), ("in_process", 1), ("in_process", 2)])
def test_real_answers_are_the_same_however_vllm_is_run(run: Run, run_as: str, replicas: int) -> None:
    served, found = run("server").answers, run(run_as, replicas)
    assert len({each.text for each in served.values()}) > 8, "answers that differ, or nothing is shown"
    assert essence(found.answers) == essence(served)
    assert [each.call_id for each in found.answers.values()] == [each.call_id for each in served.values()]
    with Store.open(found.folder) as store:
        rows = store.select("SELECT status FROM batches")
    expected = {"prepared": 2, "submitted": 2, "collected": 2, "done": 2} if run_as == "batch" else {}
    assert Counter(row["status"] for row in rows) == expected


def expected(adapter: Path | None) -> list[list[tuple[str, float]]]:
    """The tokens after the generation prompt with their log-probabilities, by transformers."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY / "base")
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(TINY / "base", dtype=torch.float32)
    if adapter is not None:
        model = pytest.importorskip("peft").PeftModel.from_pretrained(model, adapter)
    told = []
    for chat in CHATS:
        turns = [message._asdict() for message in chat]
        ways = {"add_generation_prompt": True}, {"continue_final_message": True}
        shown, whole = (
            tokenizer.apply_chat_template(each, **how, return_dict=False)
            for each, how in zip((turns[:-1], turns), ways, strict=True)
        )
        assert whole[: len(shown)] == shown
        with torch.no_grad():
            scores = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        told.append(
            [
                (tokenizer.decode([whole[at]]), float(scores[at - 1, whole[at]]))
                for at in range(len(shown), len(whole))
            ]
        )
    return told


@pytest.fixture(scope="module")
def by_transformers(tmp_path_factory: pytest.TempPathFactory) -> list[list[tuple[str, float]]]:
    """Of the base, of the adapter and of the one with a head."""
    of_base, of_adapter = expected(None), expected(TINY / "teacher")
    of_head = expected(with_head(tmp_path_factory.mktemp("transformers") / "head"))
    changes = [abs(mine[0][1] - theirs[0][1]) for mine, theirs in zip(of_head, of_adapter, strict=True)]
    assert max(changes) > 1, "the head's weights matter"
    return of_base + of_adapter + of_head


@pytest.mark.parametrize("run_as", ["server", "in_process"])
def test_each_token_of_the_answer_is_as_likely_as_transformers_says(
    run: Run, by_transformers: list[list[tuple[str, float]]], run_as: str
) -> None:
    found = run(run_as).likely
    assert [chat[-1].content for chat in CHATS] * 3 == [each.text for each in found]
    for answer, wanted in zip(found, by_transformers, strict=True):
        tokens = answer.logprobs or ()
        whole = [
            (token.text, text)
            for token, (text, _) in zip(tokens, wanted, strict=True)
            if "\ufffd" not in text
        ]
        assert all(mine == theirs for mine, theirs in whole) and len(whole) > len(wanted) / 3
        assert "".join(token.text for token in tokens) == answer.text
        for token, (_, logprob) in zip(tokens, wanted, strict=True):
            assert token.logprob == pytest.approx(logprob, abs=0.05, rel=0.03)
        assert answer.completion_tokens == 1 and answer.prompt_tokens > len(tokens)


@pytest.mark.parametrize("run_as", ["server", "in_process"])
def test_what_the_section_says_is_likelier_than_what_it_does_not_and_than_alone(
    run: Run, run_as: str
) -> None:
    found = run(run_as).likely[:3]
    right, wrong, alone = (sum(token.logprob for token in each.logprobs or ()) for each in found)
    assert right > wrong and right > alone
