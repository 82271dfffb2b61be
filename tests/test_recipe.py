from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import RecipeError
from factory.init import write_template
from factory.layers import merge
from factory.load import load_domain, load_recipe
from factory.recipe import Recipe
from factory.registry import create
from factory.servers import EndpointServer

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*/profiles/*.yaml"))
RANKED = """
servers: {main: {kind: vllm, model: m, max_lora_rank: 16}}
models: {student: {server: main}}
training: {student: {base: m, rank: 32}}
"""
ENDPOINT = "servers: {main: {kind: endpoint, base_url: 'http://127.0.0.1:1/v1'}}\n"
# What is laid over the template, and the words that the one line of error must hold.
WRONG = {
    "top_level_typo": ("sedds: x.jsonl", ["profiles/bad.yaml:1 sedds", "unknown key 'sedds'", "'seeds'"]),
    "nested_typo": ("loop: {roundz: 1}", ["bad.yaml:1 loop.roundz", "did you mean 'rounds'"]),
    "typo_in_list": (
        "strategies: [{name: grounded, weigth: 2}]",
        ["strategies[0].weigth", "unknown key", "option of 'grounded'"],
    ),
    "typo_in_server": (
        "servers: {main: {kind: vllm, modle: x}}",
        ["bad.yaml:1 servers.main.modle", "did you mean 'model'"],
    ),
    "unknown_role": ("models: {techer: {server: main}}", ["models.techer", "did you mean 'teacher'"]),
    "unknown_kind": ("servers: {main: {kind: ollama}}", ["servers.main.kind", "endpoint, scripted, vllm"]),
    "no_kind": (
        "servers: {other: {model: x}}",
        ["servers.other", "'kind' is missing", "endpoint, scripted, vllm"],
    ),
    "text_for_number": ("loop: {rounds: 'two'}", ["bad.yaml:1 loop.rounds", "valid integer", "'two'"]),
    "quoted_number": ("loop: {rounds: '2'}", ["loop.rounds", "without quotes"]),
    "number_for_text": ("domain: {title: 7}", ["domain.title", "valid string", "put it in quotes"]),
    "list_for_mapping": ("loop: [1]", ["bad.yaml:1 loop", "found a list", "mapping"]),
    "too_small": ("loop: {rounds: 0}", ["loop.rounds", "greater than or equal to 1", "found 0"]),
    "not_a_number": ("loop: {slice_floor: .nan}", ["loop.slice_floor", "finite"]),
    "bad_choice": ("loop: {while_training: nap}", ["loop.while_training", "'auto', 'keep'"]),
    "bad_pattern": ("domain: {citation_pattern: '(('}", ["domain.citation_pattern", "no regular expression"]),
    "headings": ("sources: {slice_heading: 3}", ["sources", "slice_heading must be a smaller number"]),
    "missing": (
        "models: {student: {concurrency: 1}}",
        ["models.student.server", "'server' is missing", "add"],
    ),
    "null": ("gold: null", ["gold", "found nothing"]),
    "unknown_strategy": ("strategies: [{name: groundet}]", ["strategies[0].name", "did you mean 'grounded'"]),
    "unknown_refiner": ("refiners: [{name: perfume}]", ["refiners[0].name", "unknown refiner", "known: "]),
    "unknown_trainer": (
        "{models: {student: {server: main}}, training: {student: {name: sgd, base: m}}}",
        ["training.student.name", "unknown trainer 'sgd'"],
    ),
    "bad_option": ("refiners: [{name: near, threshold: 7}]", ["refiners[0].threshold", "option of 'near'"]),
    "twice": ("refiners: [{name: form}, {name: form}]", ["refiners[1].name", "stands in the list twice"]),
    "edit_without_model": ("refiners: [{name: edit}]", ["refiners[0].name", "add `models.refiner`"]),
    "no_server": ("models: {teacher: {server: mian}}", ["models.teacher.server", "did you mean 'main'"]),
    "endpoint_model": (
        "servers: {main: {kind: endpoint, base_url: 'http://127.0.0.1:1/v1'}}",
        ["models.teacher.model", "'model' is missing", "endpoint"],
    ),
    "endpoint_url": (
        "{servers: {main: {kind: endpoint, base_url: 'localhost:1'}}, models: {teacher: {model: m}}}",
        ["servers.main.base_url", "http"],
    ),
    "further_url": (
        "{servers: {main: {kind: endpoint, base_url: 'http://a:1',"
        " further_base_urls: ['http://b:1', 'c:1']}}, models: {teacher: {model: m}}}",
        ["servers.main.further_base_urls[1]", "'c:1' is no http address"],
    ),
    "further_url_twice": (
        "{servers: {main: {kind: endpoint, base_url: 'http://a:1', further_base_urls: ['http://a:1/']}},"
        " models: {teacher: {model: m}}}",
        ["servers.main.further_base_urls[0]", "stands there twice"],
    ),
    "no_replicas": (
        "servers: {main: {kind: vllm, model: m, replicas: 0}}",
        ["servers.main.replicas", "greater than or equal to 1"],
    ),
    "batch_elsewhere": (
        "{servers: {main: {kind: endpoint, base_url: 'http://a:1', batch: true,"
        " further_base_urls: ['http://b:1']}}, models: {teacher: {model: m}}}",
        ["servers.main.further_base_urls", "comes back from the address", "batch: false"],
    ),
    "batch_replicas": (
        "servers: {main: {kind: vllm, model: m, run_as: batch, replicas: 2}}",
        ["servers.main.replicas", "`run_as: batch` one process", "replicas: 1"],
    ),
    "files_replicas": (
        "servers: {main: {kind: vllm, model: m, run_as: files, replicas: 2}}",
        ["servers.main.replicas", "`run_as: files` one process"],
    ),
    "no_teacher": (
        "{servers: {main: {kind: scripted}}, models: null}",
        ["models", "found nothing"],
    ),
    "rank": (RANKED, ["training.student.rank", "rank 32 is more than", "max_lora_rank to 32"]),
    "server_rank": (
        "servers: {main: {kind: vllm, model: m, max_lora_rank: 24}}",
        ["servers.main.max_lora_rank", "cannot serve rank 24", "8, 16, 32"],
    ),
    "no_student_model": ("training: {student: {base: m}}", ["training.student", "models.student"]),
    "control_refiner": (
        "{models: {student: {server: main}}, training: {student: {base: m}}, loop: {controls: {raw: [fom]}}}",
        ["loop.controls.raw[0]", "did you mean 'form'"],
    ),
    "control_name": ("loop: {controls: {Raw Data: []}}", ["loop.controls.Raw Data", "lower-case"]),
    "control_untrained": ("loop: {controls: {raw: []}}", ["loop.controls", "training.student"]),
    "student_on_an_endpoint": (
        ENDPOINT + "models: {teacher: {model: m}, student: {server: main, model: m}}\n"
        "training: {student: {base: org/m}}",
        ["bad.yaml:2 models.student.server", "'main' loads no adapters", "can_load_adapters"],
    ),
    "adapter_on_an_endpoint": (
        ENDPOINT + "models: {teacher: {model: m, adapter: mine}}",
        ["bad.yaml:2 models.teacher.adapter", "'main' loads no adapters", "can_load_adapters"],
    ),
    "seed_below_zero": ("seed: -1", ["bad.yaml:1 seed", "greater than or equal to 0", "found -1"]),
    "seed_too_large": ("seed: 4294967296", ["bad.yaml:1 seed", "less than 4294967296"]),
    "no_seeds": ("seeds: null", ["strategies[1].name", "no seeds", "set `seeds`"]),
    "no_sources": ("sources: {paths: []}", ["strategies[0].name", "no sources"]),
    "key_twice": ("seed: 1\nname: a\nseed: 2", ["bad.yaml:3", "'seed' stands here twice"]),
    "not_yaml": ("loop: {rounds: 1", ["bad.yaml", "expected"]),
    "not_a_mapping": ("- 1", ["bad.yaml", "must be a mapping"]),
    "python_tag": ("name: !!python/object/apply:os.system ['true']", ["bad.yaml:1", "constructor"]),
    "holds_itself": ("loop: &a {rounds: *a}", ["bad.yaml"]),
    "deep": ("[" * 5000, ["bad.yaml", "deep"]),
    "list_key": ("? [1, 2]\n: 3", ["bad.yaml:1", "key must be a word"]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_template(tmp_path / "domain")
    return tmp_path / "domain"


def load_over(folder: Path, text: str) -> None:
    (folder / "profiles" / "bad.yaml").write_text(text, encoding="utf-8")
    load_recipe(folder, "bad")


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_with_file_key_and_hint(folder: Path, name: str) -> None:
    text, words = WRONG[name]
    with pytest.raises(RecipeError) as caught:
        load_over(folder, text)
    line = str(caught.value)
    assert "\n" not in line
    assert [word for word in words if word not in line] == [], line


def test_a_wrong_key_is_told_where_it_was_written(folder: Path) -> None:
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("  rounds: 1", "  rounds: no"))
    with pytest.raises(RecipeError, match=r"recipe\.yaml:\d+ loop\.rounds") as caught:
        load_recipe(folder, "endpoint")
    number = int(str(caught.value).split(":")[1].split(" ")[0])
    assert "rounds: no" in recipe.read_text().splitlines()[number - 1]


def test_a_missing_profile_names_those_that_are_there(folder: Path) -> None:
    with pytest.raises(RecipeError, match="there are: endpoint, one_gpu"):
        load_recipe(folder, "tiny")
    data = yaml.safe_load((folder / "recipe.yaml").read_text())
    del data["servers"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(RecipeError, match="give --profile; there are: endpoint, one_gpu"):
        load_recipe(folder, None)


def test_a_file_that_is_not_there_or_not_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no recipe here"):
        load_recipe(tmp_path, None)
    (tmp_path / "recipe.yaml").write_bytes(b"name: a\ntitle: \xff")
    with pytest.raises(RecipeError, match=r"recipe\.yaml:2: not UTF-8"):
        load_recipe(tmp_path, None)


def test_folder_file_and_profile_path_load_the_same(folder: Path) -> None:
    by_name, _ = load_recipe(folder, "one_gpu")
    by_path, place = load_recipe(folder / "recipe.yaml", str(folder / "profiles" / "one_gpu.yaml"))
    assert by_name == by_path
    assert place == folder
    assert by_name.servers["main"].kind == "vllm"
    assert by_name.domain.title == "Brightwater Library"  # from the recipe below


def test_digest_is_stable_and_changes_with_any_value(folder: Path) -> None:
    recipe, _ = load_recipe(folder, None)
    assert recipe.digest() == load_recipe(folder, None)[0].digest()
    assert recipe.digest() != load_recipe(folder, "endpoint")[0].digest()
    assert recipe.digest() != recipe.model_copy(update={"seed": 1}).digest()


REPLICAS = {
    "vllm": ({"kind": "vllm", "model": "m"}, {"replicas": 3}),
    "endpoint": (
        {"kind": "endpoint", "base_url": "http://a/v1"},
        {"further_base_urls": ["http://b/v1"]},
    ),
}


@pytest.mark.parametrize("kind", REPLICAS)
def test_more_replicas_are_the_same_run(folder: Path, kind: str) -> None:
    server, more = REPLICAS[kind]
    recipe, _ = load_recipe(folder, None)
    found = recipe.model_dump() | {"models": {"teacher": {"server": "s", "model": "m"}}}
    one, several = (
        Recipe.model_validate({**found, "servers": {"s": part}}) for part in (server, server | more)
    )
    assert one.run_digest() == several.run_digest() and one.digest() != several.digest()


def test_user_and_password_of_an_address_stay_out_of_whatever_is_stored() -> None:
    def endpoint(url: str) -> EndpointServer:
        return EndpointServer(kind="endpoint", base_url=url)

    server = endpoint("https://me:p%40ss@host:8000/v1")
    assert server.base_url == "https://me:p%40ss@host:8000/v1"
    assert server.model_dump(mode="json")["base_url"] == "https://***@host:8000/v1"
    for plain in ("http://127.0.0.1:8000/v1", "http://[::1]:80/v1", "https://host/@cf/v1", "http://host"):
        assert endpoint(plain).model_dump(mode="json")["base_url"] == plain
    further = ["https://me:pass@host:8001/v1"]
    server = EndpointServer(kind="endpoint", base_url="http://host", further_base_urls=further)
    assert server.addresses == ["http://host", *further]
    assert server.model_dump(mode="json")["further_base_urls"] == ["https://***@host:8001/v1"]


def test_what_loads_adapters_may_serve_a_student(folder: Path) -> None:
    text = ENDPOINT.replace("}}", ", can_load_adapters: true}}")
    text += "models: {teacher: {model: m}, student: {server: main, model: m}}\n"
    load_over(folder, text + "training: {student: {base: org/m}}")
    load_over(folder, "seed: 4294967295")


def test_exponents_without_a_dot_are_numbers(folder: Path) -> None:
    (folder / "profiles" / "e.yaml").write_text("guard: {max_gzip_ratio: 12e-1}")
    assert load_recipe(folder, "e")[0].guard.max_gzip_ratio == pytest.approx(1.2)


def test_a_server_of_another_kind_replaces() -> None:
    below = {"s": {"kind": "scripted", "script": "echo"}, "n": {"a": [1], "b": 2}}
    above = {"s": {"kind": "vllm", "model": "m"}, "n": {"a": [3]}}
    assert merge(below, above) == {"s": {"kind": "vllm", "model": "m"}, "n": {"a": [3], "b": 2}}
    assert merge(below, {"s": {"script": "x"}})["s"] == {"kind": "scripted", "script": "x"}


@pytest.mark.parametrize("profile", RECIPES, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def test_every_recipe_of_ours_loads_with_every_profile(profile: Path) -> None:
    recipe, folder = load_recipe(profile.parents[1], profile.stem)
    domain = load_domain(recipe, folder)
    served = [create("generators", spec, domain).slices for spec in recipe.strategies]
    assert set().union(*served) == set(domain.slices)
    assert recipe.digest() == load_recipe(profile.parents[1], profile.stem)[0].digest()


TREES = st.recursive(
    st.integers() | st.text(max_size=3) | st.none(),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)
LAYERS = st.dictionaries(st.sampled_from("abcd"), TREES, max_size=4)


@given(LAYERS, LAYERS)
def test_merging_keeps_what_is_above_and_adds_what_is_below(below: dict, above: dict) -> None:
    merged = merge(below, above)
    assert set(merged) == set(below) | set(above)
    assert merge(merged, above) == merged
    assert merge(below, {}) == below
    assert all(merged[key] == value for key, value in above.items() if not isinstance(value, dict))
