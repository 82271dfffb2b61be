import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_endpoint import FakeEndpoint, Hang, Status
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from factory.budget import Budget, Spend
from factory.consistency import Inconsistency, check_consistency
from factory.embedding.account import Account
from factory.embedding.bundled import bundled
from factory.embedding.endpoint import EndpointEmbedder, bound_tokens
from factory.embedding.folder import FolderModel
from factory.embedding.options import EmbedderSpec, FolderEmbedder, create_embedder
from factory.errors import BudgetExceeded, EndpointError, FactoryError, RecipeError
from factory.recipe import BudgetSpec, Recipe
from factory.servers import EndpointServer
from factory.spend import read_spend
from factory.store.store import Store

SPEC: TypeAdapter[Any] = TypeAdapter(EmbedderSpec)


# bundled


def test_the_bundled_embedder_is_the_one_that_thresholds_were_chosen_with():
    assert bundled().id == "wordllama:c24a83eff292"


def test_the_bundled_embedder_imports_no_torch_and_runs_no_code_of_the_package():
    script = (
        "import sys; from factory.embedding.bundled import bundled; print(bundled().embed(['a cat']).shape);"
        "assert not {'torch', 'transformers', 'wordllama', 'requests'} & set(sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout.strip()) == (0, "(1, 256)"), found.stderr


def test_what_means_the_same_is_nearer_than_what_does_not():
    question, same, other = bundled().embed(
        [
            "Which month is best to prune an apple tree?",
            "When should one cut apple trees?",
            "Who wrote the opera?",
        ]
    )
    assert question @ same > 0.5 > 0.2 > question @ other


@settings(max_examples=30)
@given(st.lists(st.text(max_size=40), max_size=6))
def test_rows_have_unit_length_and_do_not_depend_on_their_neighbours(texts: list[str]):
    rows = bundled().embed(texts)
    assert rows.shape == (len(texts), 256) and rows.dtype == np.float32
    for text, row in zip(texts, rows, strict=True):
        assert np.array_equal(bundled().embed([text])[0], row)
        assert abs(np.linalg.norm(row) - 1) < 1e-5 or (not text.strip() and not row.any())


# endpoint


def rows_for(body: dict[str, Any]) -> Status:
    data = [{"index": at, "embedding": [3.0, 4.0 * len(text)]} for at, text in enumerate(body["input"])]
    return Status(200, {"data": data[::-1]})


def account(store: Store, budget: Budget | None = None, run: str = "run_a") -> Account:
    return Account(store, budget or Budget(BudgetSpec()), run, 1)


def embedder(
    endpoint: FakeEndpoint, held: Account | None, key: str | None = None, price: float = 0.0
) -> EndpointEmbedder:
    server = EndpointServer(kind="endpoint", base_url=endpoint.base_url, api_key_env=key)
    made = EndpointEmbedder(server, "small", price, 0.01)
    if held is not None:
        made.bind(held)
    return made


async def embed(endpoint: FakeEndpoint, texts: list[str], store: Store, key: str | None = None) -> Any:
    return await embedder(endpoint, account(store), key).vectors(texts)


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "w") as store:
        yield store


async def test_an_endpoint_is_asked_in_parts_and_its_rows_come_in_order(monkeypatch, store):
    monkeypatch.setenv("EMBEDDING_KEY", "s3cret")
    async with FakeEndpoint(rows_for, api_key="s3cret") as endpoint:
        rows = await embed(endpoint, ["x" * (n + 1) for n in range(130)], store, "EMBEDDING_KEY")
    assert [len(body["input"]) for body in endpoint.requests] == [64, 64, 2]
    assert {body["model"] for body in endpoint.requests} == {"small"}
    assert rows.shape == (130, 2) and np.allclose(rows[0], [0.6, 0.8])
    assert np.allclose(rows[129, 1] / rows[129, 0], 4.0 * 130 / 3)


async def test_an_endpoint_that_is_busy_is_asked_again(store):
    busy, there = Status(503, "busy"), Status(200, {"data": [{"index": 0, "embedding": [0.0, 2.0]}]})
    async with FakeEndpoint([busy, busy, there]) as endpoint:
        assert (await embed(endpoint, ["x"], store)).tolist() == [[0.0, 1.0]]
    assert len(endpoint.requests) == 3
    (call,) = store.select("SELECT attempts, status, lost_tokens FROM calls")
    assert (call["attempts"], call["status"], call["lost_tokens"]) == (3, "ok", None)


async def test_no_text_is_paid_twice_in_no_run_and_no_process(tmp_path):
    texts = ["one", "two", "one", ""]
    async with FakeEndpoint(rows_for) as endpoint:
        with Store.open(tmp_path / "w") as store:
            first = await embed(endpoint, texts, store)
            more = await embed(endpoint, [*texts, "three"], store)
            assert np.array_equal(more[:4], first)
        with Store.open(tmp_path / "w") as store:
            again = await embedder(endpoint, account(store, run="run_b")).vectors(texts[::-1])
            kept = store.select("SELECT count(*) AS n FROM embeddings")
    assert [body["input"] for body in endpoint.requests] == [["one", "two", " "], ["three"]]
    assert again.dtype == np.float32 and np.array_equal(again, first[::-1])
    assert kept == [{"n": 4}]


async def test_calls_for_rows_count_in_the_budget_and_the_report(store):
    def counted(body: dict[str, Any]) -> Status:
        data = [{"index": at, "embedding": [1.0]} for at in range(len(body["input"]))]
        return Status(200, {"data": data, "usage": {"prompt_tokens": 10 * len(data)}})

    budget = Budget(BudgetSpec(tokens=200, dollars=1.0))
    async with FakeEndpoint(counted) as endpoint:
        asked = embedder(endpoint, account(store, budget), price=1000.0)
        await asked.vectors(["a b", "c"])
        assert (budget.spent, budget.reserved) == (Spend(1, 20, 0.02), Spend())
        with pytest.raises(BudgetExceeded, match="tokens"):
            await asked.vectors(["x" * 200])
        assert len(endpoint.requests) == 1
    assert Budget.from_store(store, "run_a", BudgetSpec()).spent == Spend(1, 20, 0.02)
    (spent,) = read_spend(store, {"run_a": "run"})
    assert (spent.stage, spent.role, spent.num_calls, spent.num_unused) == ("refine", "embedder", 1, 0)


async def test_attempts_without_an_answer_count_at_their_most(store, monkeypatch):
    monkeypatch.setattr("factory.embedding.endpoint.MAX_ATTEMPTS", 2)
    budget = Budget(BudgetSpec())
    async with FakeEndpoint([Status(504, "late"), Status(429, "wait")]) as endpoint:
        with pytest.raises(EndpointError):
            await embedder(endpoint, account(store, budget)).vectors(["four"])
    most = bound_tokens(["four"])
    assert budget.spent == Spend(2, most, 0.0) and budget.lost.tokens == most
    (call,) = store.select("SELECT attempts, status, error, lost_tokens FROM calls")
    assert (call["attempts"], call["status"], call["error"]) == (2, "failed", "rate_limited")
    assert call["lost_tokens"] == most


async def test_a_call_that_the_run_s_minutes_cut_off_is_no_answered_one(store):
    budget = Budget(BudgetSpec(minutes=0.005))
    async with FakeEndpoint([Hang()]) as endpoint:
        with pytest.raises(BudgetExceeded, match="minutes"):
            await embedder(endpoint, account(store, budget)).vectors(["four"])
    (call,) = store.select("SELECT status, error, response, lost_tokens FROM calls")
    assert (call["status"], call["error"], call["response"]) == ("failed", "cancelled", None)
    assert call["lost_tokens"] == bound_tokens(["four"])


async def test_outside_of_a_run_nothing_is_asked():
    async with FakeEndpoint(rows_for) as endpoint:
        with pytest.raises(FactoryError, match="outside of a run"):
            await embedder(endpoint, None).vectors(["x"])
    assert not endpoint.requests


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Status(200, {"data": []}), "malformed"),
        (Status(200, {"data": [{"index": 0, "embedding": ["x"]}]}), "malformed"),
        (Status(200, b'{"data": [{"index": 0, "embedding": [NaN]}]}'), "malformed"),
        (Status(200, "<html>"), "malformed"),
        (Status(400, {"error": {"message": "no such model"}}), "refused"),
    ],
)
async def test_an_answer_that_is_none_ends_it(answer, kind, monkeypatch, store):
    monkeypatch.setattr("factory.embedding.endpoint.MAX_ATTEMPTS", 2)
    async with FakeEndpoint([answer]) as endpoint:
        with pytest.raises(EndpointError) as caught:
            await embed(endpoint, ["x"], store)
    assert caught.value.kind == kind


def recipe(embedder: Any, **changes: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "law",
            "domain": {"title": "Law"},
            "gold": {"dev": "dev.jsonl", "test": "test.jsonl"},
            "servers": {
                "here": {"kind": "scripted"},
                "there": {"kind": "endpoint", "base_url": "http://127.0.0.1:1/v1"},
            },
            "models": {"teacher": {"server": "here"}},
            "seeds": "seeds.jsonl",
            "strategies": [{"name": "seeded"}],
            "refiners": [{"name": "contamination", "embedder": embedder}],
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("server", "budget", "said"),
    [
        ("gone", {}, "there is no server 'gone'"),
        ("here", {}, "'here' is no endpoint"),
    ],
)
def test_a_recipe_with_an_embedder_that_does_not_fit_is_refused(server, budget, said):
    with pytest.raises(Inconsistency, match=said) as caught:
        check_consistency(recipe({"server": server, "model": "small"}, budget=budget))
    assert caught.value.loc == ("refiners", 0, "embedder")


def test_a_recipe_with_an_embedder_that_fits_is_taken():
    check_consistency(recipe({"server": "there", "model": "small"}, budget={"calls": 5, "dollars": 1.0}))
    check_consistency(recipe("bundled", budget={"calls": 5}))


@pytest.mark.parametrize(
    "given", ["static", {"folder": 3}, {"folder": "x", "model": "y"}, {"server": "x"}, None]
)
def test_what_names_no_embedder_is_refused(given):
    with pytest.raises(ValidationError):
        SPEC.validate_python(given)


def test_a_key_that_is_not_set_is_told_before_anything_is_asked(monkeypatch):
    monkeypatch.delenv("EMBEDDING_KEY", raising=False)
    with pytest.raises(RecipeError, match="EMBEDDING_KEY is not set"):
        EndpointEmbedder(
            EndpointServer(kind="endpoint", base_url="http://x/v1", api_key_env="EMBEDDING_KEY"), "m"
        )


# folder


def make_folder(path: Path, pooling: dict[str, Any] | None = None, *, weights: bool = False) -> Path:
    path.mkdir()
    if weights:
        import torch
        from transformers import BertConfig, BertModel, BertTokenizerFast

        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "how", "long", "is", "it", "the", "cat"]
        (path / "vocab.txt").write_text("\n".join(words))
        BertTokenizerFast(vocab_file=str(path / "vocab.txt"), vocab=str(path / "vocab.txt")).save_pretrained(
            path
        )
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=16, **sizes)).save_pretrained(
            path
        )
    else:
        (path / "config.json").write_text("{}")
        (path / "model.safetensors").write_bytes(b"x")
    if pooling is not None:
        modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        listed = [
            {"idx": n, "path": p, "type": f"sentence_transformers.models.{t}"}
            for n, (p, t) in enumerate(modules)
        ]
        (path / "modules.json").write_text(json.dumps(listed))
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return path


@pytest.mark.train
@pytest.mark.parametrize(
    "pooling", ["pooling_mode_mean_tokens", "pooling_mode_cls_token", "pooling_mode_max_tokens"]
)
def test_a_folder_is_pooled_as_it_says(tmp_path, pooling):
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = make_folder(
        tmp_path / "model", {pooling: True, "pooling_mode_weightedmean_tokens": False}, weights=True
    )
    texts = ["how long is the cat", "it", "the cat " * 40, "how is it"]
    rows = create_embedder(FolderEmbedder(folder="model"), SimpleNamespace(folder=tmp_path)).model.embed(
        texts
    )  # type: ignore[arg-type]
    assert rows.shape == (4, 32) and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    inputs = AutoTokenizer.from_pretrained(folder)(texts[0], return_tensors="pt")
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state[0].numpy()
    pooled = {"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.max(0)}[pooling.split("_")[2]]
    assert np.allclose(rows[0], pooled / np.linalg.norm(pooled), atol=1e-5)


def test_a_folder_that_would_be_read_wrongly_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="there is no model directory"):
        FolderModel(tmp_path, "gone")
    make_folder(tmp_path / "weighted", {"pooling_mode_weightedmean_tokens": True})
    with pytest.raises(RecipeError, match=r"pooling .* is not known"):
        FolderModel(tmp_path, "weighted")
    folder = make_folder(tmp_path / "dense", {"pooling_mode_mean_tokens": True})
    FolderModel(tmp_path, "dense")
    listed = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*listed, {"path": "3", "type": "x.Dense"}]))
    with pytest.raises(RecipeError, match="module 'Dense' is not known"):
        FolderModel(tmp_path, "dense")


def test_the_id_of_a_folder_changes_with_its_files(tmp_path):
    folder = make_folder(tmp_path / "model", {"pooling_mode_mean_tokens": True})
    first = FolderModel(tmp_path, "model").id
    assert FolderModel(tmp_path, "model").id == first
    (folder / "model.safetensors").write_bytes(b"other")
    assert FolderModel(tmp_path, "model").id != first
