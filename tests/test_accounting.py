"""The books of a whole run with rewrites, controls and students, also after it was cut off anywhere.

Only the models and the training are pretended: an endpoint on loopback, and a trainer that hashes.
"""

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml
from fake_endpoint import Status, answer
from test_loop import endpoint

from factory import loop, session
from factory.bench import Bench
from factory.init import write_template
from factory.progress import Progress
from factory.store.queries import Reader
from factory.store.store import Store
from factory.types import Adapter

ROLES = ("teacher", "refiner", "student")
CHECKS = ["form", "exact", "near", "contamination", "round_trip", "citation"]
VERDICTS = (
    {"verdict": "keep", "reason": "ok", "scores": {"grounded": 1.0, "form": 0.5}},
    {"verdict": "rewrite", "rewrite": "See what is said there (RULE).", "reason": "wrong_quantity"},
    {"verdict": "edit", "ops": [{"op": "replace", "old": "days", "new": "full days"}], "reason": "unit"},
    {"verdict": "drop", "reason": "Off Topic!"},
    "not an object",
)

MEMBERS = """(SELECT run_id, sample_id FROM round_samples
    UNION SELECT run_id, rewrite_id FROM decisions WHERE rewrite_id IS NOT NULL)"""
UNUSED = """SELECT * FROM calls WHERE status = 'ok' AND id NOT IN (SELECT parent FROM edges
    UNION SELECT call_id FROM evaluation_items UNION SELECT judge_call_id FROM evaluation_items
    WHERE judge_call_id IS NOT NULL
    UNION SELECT evidence ->> 'call' FROM decisions WHERE evidence ->> 'call' IS NOT NULL
    UNION SELECT unnest(evidence ->> '$.calls[*]') FROM decisions
    UNION SELECT request ->> 'instead_of' FROM calls
    WHERE status = 'ok' AND request ->> 'instead_of' IS NOT NULL)"""
WRONG = {
    "decided twice": "SELECT run_id, sample_id FROM decisions WHERE final GROUP BY ALL HAVING count(*) <> 1",
    "not decided": f"{MEMBERS} EXCEPT SELECT run_id, sample_id FROM decisions WHERE final",
    "decided but of no run": f"SELECT run_id, sample_id FROM decisions EXCEPT {MEMBERS}",
    "a child that is none": "SELECT * FROM edges WHERE child NOT IN (SELECT id FROM samples)",
    "a parent that is none": """SELECT * FROM edges WHERE parent NOT IN (SELECT id FROM samples
        UNION SELECT id FROM sources UNION SELECT id FROM seeds
        UNION SELECT id FROM calls WHERE status = 'ok')""",
    "a sample without a call": """SELECT id FROM samples
        EXCEPT SELECT child FROM edges WHERE relation = 'call'""",
    "accepted without an origin": """SELECT sample_id FROM accepted
        EXCEPT SELECT sample_id FROM lineage WHERE kind IN ('seed', 'source')""",
    "a call for nothing": f"SELECT id FROM ({UNUSED})",
    "a call paid twice": "SELECT id FROM calls WHERE status = 'ok' GROUP BY id HAVING count(*) > 1",
    "a model that is none": "SELECT model_id FROM calls EXCEPT SELECT id FROM models",
    "trained on what was not kept": """SELECT m.sample_id FROM dataset_samples m
        JOIN datasets d ON d.id = m.dataset_id ANTI JOIN decisions x
        ON x.run_id = d.run_id AND x.sample_id = m.sample_id AND x.final AND x.action = 'keep'""",
}
STATE = {
    "decisions": "SELECT * EXCLUDE (created_at) FROM decisions ORDER BY ALL",
    "edges": "SELECT * FROM edges ORDER BY ALL",
    "members": "SELECT * FROM dataset_samples ORDER BY ALL",
    "models": "SELECT id, role, adapter_digest, dataset_id, run_id, round FROM models ORDER BY ALL",
    "curves": "SELECT step, loss, model_id FROM training_steps ORDER BY ALL",
    "evaluations": "SELECT * EXCLUDE (created_at) FROM evaluations ORDER BY ALL",
    "items": "SELECT * FROM evaluation_items ORDER BY ALL",
    "stages": "SELECT DISTINCT run_id, round, stage FROM stages WHERE status = 'done' ORDER BY ALL",
}


class Hasher:
    """A trainer whose weights are the hash of its dataset."""

    def train(self, dataset, base, directory, on_progress):
        weights = hashlib.blake2b(dataset.read_bytes()).digest()
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "adapter_model.safetensors").write_bytes(weights)
        config = {"r": 8, "peft_type": "LORA", "lora_alpha": 8, "target_modules": ["q"]}
        (directory / "adapter_config.json").write_text(json.dumps(config))
        curve = tuple({"phase": "sft", "step": step, "loss": 1 / step} for step in (1, 2, 3))
        return Adapter(directory, weights.hex()[:20], base, 3, 0.5, 1.0, curve)

    def cancel(self):
        raise AssertionError("nothing is cancelled here")


def play(request: dict) -> Status:
    """All three roles; the same request is always answered the same."""
    key = json.dumps([request["messages"], request.get("seed"), request["model"]])
    number = int(hashlib.blake2b(key.encode()).hexdigest()[:8], 16)
    if "response_format" not in request:
        return answer(f"{number % 40} days (Rule 1.1).")
    keys = request["response_format"]["json_schema"]["schema"]["properties"]
    if "verdict" in keys:
        verdict = VERDICTS[number % len(VERDICTS)]
        return answer(json.dumps(verdict).replace("RULE", re.findall(r"Rule \d\.\d", str(request))[0]))
    if number % 11 == 0:
        return answer("no JSON at all")
    if number % 3 == 0:
        return answer(json.dumps({key: f"{key} {number % 50} days (Rule 1.2)" for key in keys}))
    prompt = json.dumps(request["messages"])
    rule = (re.findall(r"Rule \d\.\d", prompt) or ["Rule 1.1"])[-1]
    text = f"{' '.join(re.findall('[a-z]{4,}', prompt)[-12:])} {number % 5000} days ({rule})"
    return answer(json.dumps({key: f"{key} {text}" for key in keys}))


@pytest.fixture(scope="module")
def server():
    with endpoint(play) as running:
        yield running


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, server):
    folder = tmp_path_factory.mktemp("books") / "domain"
    write_template(folder)
    main = {"kind": "endpoint", "base_url": server.base_url, "can_load_adapters": True}
    model = {"server": "main", "model": "fake", "max_retries": 0, "concurrency": 8}
    profile = {
        "servers": {"main": main},
        "models": {role: {**model, "sampling": {"temperature": 0.8 * (role == "teacher")}} for role in ROLES},
        "refiners": [{"name": name} for name in [*CHECKS[:-1], "edit", CHECKS[-1]]],
        "training": {"student": {"base": "pretended"}},
        "evaluation": {"min_items": 1},
        "loop": {"rounds": 2, "controls": {"raw": [], "checks": CHECKS}},
        "guard": {"max_distinct2_drop": 1.0, "max_gzip_ratio": 10.0},
    }
    for name in ("books", "beside"):
        (folder / "profiles" / f"{name}.yaml").write_text(yaml.safe_dump(profile))
    profile["loop"] |= {"samples_per_round": None, "accepted": 30}
    (folder / "profiles" / "target.yaml").write_text(yaml.safe_dump(profile))
    return folder


@pytest.fixture(scope="module", params=["books", "target", "beside"])
def profile(request):
    """Rounds of so many tasks, rounds of so many accepted samples, and controls beside later rounds."""
    return request.param


def run(recipe: Path, workspace: Path, profile: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "trainer", lambda self, role="student": (Hasher(), "pretended"))
        patch.setattr(loop, "can_run_beside", lambda recipe: profile == "beside")
        session.run(recipe, profile, workspace, Progress(bars=False))


def ask(workspace: Path, queries: dict[str, str]) -> dict[str, list[dict]]:
    with Reader(workspace) as reader:
        return {name: reader.select(sql) for name, sql in queries.items()}


@pytest.fixture(scope="module")
def whole(recipe, profile, tmp_path_factory):
    """A run that nothing disturbed, and how many times it wrote to its store."""
    workspace = tmp_path_factory.mktemp("whole")
    num_appends, append = 0, Store.append

    def count(self, table, rows):
        nonlocal num_appends
        num_appends += 1
        append(self, table, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "append", count)
        run(recipe, workspace, profile)
    return workspace, num_appends


@pytest.mark.parametrize("what", WRONG)
def test_the_books_balance(whole, what):
    assert ask(whole[0], {what: WRONG[what]})[what] == []


def test_the_run_had_of_everything(whole):
    actions = ask(whole[0], {"": "SELECT DISTINCT action FROM decisions WHERE final ORDER BY ALL"})[""]
    assert [row["action"] for row in actions] == ["drop", "keep", "rewrite"]
    found = ask(whole[0], STATE)
    assert {row["round"] for row in found["evaluations"]} == {0, 1, 2}
    assert len({row["run_id"] for row in found["decisions"]}) == 3
    trained = {row["id"] for row in found["models"] if row["dataset_id"]}
    assert trained and {(row["model_id"], row["step"]) for row in found["curves"]} == {
        (model, step) for model in trained for step in (1, 2, 3)
    }


@pytest.mark.parametrize("share", [0.02, 0.2, 0.45, 0.6, 0.8, 0.97])
def test_a_run_that_is_cut_off_ends_as_one_that_was_not(recipe, profile, whole, tmp_path, share):
    workspace, num_appends = whole
    left, append = int(share * num_appends), Store.append

    def append_until(self, table, rows):
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("cut off")
        append(self, table, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "append", append_until)
        with pytest.raises(RuntimeError, match="cut off"):
            run(recipe, tmp_path, profile)
    run(recipe, tmp_path, profile)
    assert ask(tmp_path, STATE) == ask(workspace, STATE)
    assert ask(tmp_path, WRONG) == {what: [] for what in WRONG}


def test_a_question_whose_answer_is_refused_for_good_is_accounted_for(recipe, tmp_path):
    refused = []

    def refuse_some(request: dict) -> Status:
        keys = list(request["response_format"]["json_schema"]["schema"]["properties"])
        question = request["messages"][0]["content"].rsplit("\n", 1)[-1]
        if keys == ["answer"] and len(question) % 2 == 0:
            refused.append(question)
            return Status(400, {"error": {"message": "not this one"}})
        return play(request)

    with endpoint(refuse_some) as server:
        profile = yaml.safe_load((recipe / "profiles" / "books.yaml").read_text())
        profile["servers"]["main"]["base_url"] = server.base_url
        profile["refiners"] = [{"name": "form"}]
        profile["strategies"] = [{"name": "seeded"}]
        profile["loop"] = {"rounds": 1, "max_failure_share": 1.0}
        del profile["training"]
        (recipe / "profiles" / "refusing.yaml").write_text(yaml.safe_dump(profile))
        report = session.run(recipe, "refusing", tmp_path, Progress(bars=False))
    (spend,) = report["spend"]
    used = ask(tmp_path, {"": "SELECT count(DISTINCT parent) AS n FROM edges WHERE relation = 'call'"})[""][0]
    assert 0 < len(refused) < 24
    assert spend["num_failed"] == spend["num_unused"] == len(refused)
    assert spend["num_asked_again"] > 0
    assert spend["num_calls"] == used["n"] + len(refused) + len(refused) + spend["num_asked_again"]
    (rows,) = ask(tmp_path, {"": UNUSED}).values()
    assert len(rows) == len(refused)
    assert all(json.loads(row["response"])["question"] in " ".join(refused) for row in rows)
