"""How likely a given answer is to a real vLLM, over HTTP and in a process of ours: as transformers says."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_ways_on_vllm import TINY, recipe

from factory.budget import Budget
from factory.engine import Engine
from factory.models.pool import ModelPool
from factory.recipe import BudgetSpec
from factory.store.store import Store
from factory.types import Completion, Message, Sampling

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

SECTION = "§ 34-9-80 Notice\nNotice of the accident is due within 30 days.\n\nHow long is notice?"
BUSY = Sampling(max_tokens=300, temperature=2.0)
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


def with_head(folder: Path) -> Path:
    """The teacher's adapter with weights for the head too, which change what every token is held for."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    if folder.exists():
        return folder
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


async def ask(folder: Path, run_as: str) -> list[Completion]:
    """What base and adapters say to every chat, through engine and pool, while all generate for others."""
    made = recipe(run_as, 1)  # in float32, as transformers below: bfloat16 is less exact than the tolerance
    made.servers["main"] = made.servers["main"].model_copy(update={"dtype": "float32"})
    with Store.open(folder / run_as) as store:
        pool = ModelPool(made, folder, folder / run_as, print)
        engine = Engine(store, Budget(BudgetSpec()), "run_1")
        try:
            asks = []
            for role, adapter in (
                ("student", None),
                ("teacher", None),
                ("teacher", with_head(folder / "head")),
            ):
                model = await pool.model(role, adapter)
                asks.append(engine.ask(role, model, made.models[role], "refine", 1))
            # Far more requests in the batch than the chats have tokens.
            others = [
                asyncio.create_task(ask([Message("user", f"Number {number}")], sampling=BUSY))
                for number in range(48)
                for ask in asks
            ]
            await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED, timeout=1)
            assert not all(task.done() for task in others)
            given = [ask(chat, sampling=Sampling(max_tokens=1), given=True) for ask in asks for chat in CHATS]
            found = list(await asyncio.gather(*given))
            await asyncio.gather(*others)
            return found
        finally:
            await pool.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("likelihood")


@pytest.fixture(scope="module", params=["server", "in_process"])
def found(request: pytest.FixtureRequest, folder: Path) -> list[Completion]:
    return asyncio.run(ask(folder, request.param))


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


def test_each_token_of_the_answer_is_as_likely_as_transformers_says(
    found: list[Completion], folder: Path
) -> None:
    adapters = (None, TINY / "teacher", folder / "head")
    of_all = [chat for adapter in adapters for chat in expected(adapter)]
    assert [chat[-1].content for chat in CHATS] * 3 == [each.text for each in found]
    for answer, wanted in zip(found, of_all, strict=True):
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


def test_what_the_section_says_is_likelier_than_what_it_does_not_and_than_alone(
    found: list[Completion],
) -> None:
    right, wrong, alone = (sum(token.logprob for token in each.logprobs or ()) for each in found[:3])
    assert right > wrong and right > alone
