"""`factory train` on a file and with --plan, and every bad input of training, through the real trainer."""

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from trained_here import Here

from factory import cli
from factory.errors import DivergedError, EndpointError, RecipeError, TrainingError, TrainingRefused
from factory.init import write_template
from training.qlora import QLoRA, QLoRAOptions

TINY = Path(__file__).parents[1] / "tiny/models/base"
PROFILE = """
servers: {{student: {{kind: scripted}}}}
models: {{student: {{server: student}}}}
training: {{student: {{base: {base}, max_steps: 2, batch_size: 4, max_length: 64, num_threads: 1}}}}
"""
LONG = "the notice claim wage " * 40


@pytest.fixture
def folder(tmp_path):
    write_template(tmp_path / "domain")
    (tmp_path / "domain/profiles/tiny.yaml").write_text(PROFILE.format(base=TINY))
    return tmp_path / "domain"


def words(folder, *more):
    return ["train", str(folder), "--profile", "tiny", *map(str, more)]


def chats(path, pairs):
    lines = []
    for question, answer in pairs:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": turns}) + "\n")
    path.write_text("".join(lines))
    return path


def some(path, num=8):
    return chats(path, [(f"notice {number}?", f"{number} days") for number in range(num)])


def refused(command, code, capsys):
    """The one line that the command says."""
    capsys.readouterr()
    assert cli.main(command) == code
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert printed.out == "" and lines and lines[-1].startswith("error: "), printed.err
    assert [line for line in lines if line.startswith("error")] == lines[-1:]
    return lines[-1]


@pytest.mark.train
def test_an_adapter_is_trained_on_a_file(folder, tmp_path, capsys):
    dataset, out = some(tmp_path / "data.jsonl"), tmp_path / "adapter"
    assert cli.main(words(folder, "--dataset", dataset, "--output", out, "--json")) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["adapter"] == str(out) and found["steps"] == 2 and found["base"] == str(TINY)
    assert (out / "adapter_model.safetensors").is_file() and "train student" in printed.err
    record = json.loads((out / "training.json").read_text())
    assert record["num_samples"] == 8 and record["options"]["max_steps"] == 2

    assert cli.main(words(folder, "--dataset", dataset, "--output", out, "--json")) == 0  # as it stands
    printed = capsys.readouterr()
    assert json.loads(printed.out) == found | {"already_there": True} and found["already_there"] is False
    assert "already there, nothing is trained" in printed.err and "0 steps" not in printed.err
    assert cli.main(words(folder, "--dataset", dataset, "--output", out)) == 0
    assert "already there: yes" in capsys.readouterr().out
    other = some(tmp_path / "other.jsonl", 9)
    line = refused(words(folder, "--dataset", other, "--output", out), 2, capsys)
    assert "holds an adapter of another dataset" in line
    profile = folder / "profiles/tiny.yaml"
    profile.write_text(profile.read_text().replace("max_steps: 2", "max_steps: 3, rank: 8"))
    line = refused(words(folder, "--dataset", dataset, "--output", out), 2, capsys)
    assert "another max_steps (2, here 3) and rank (32, here 8)" in line

    base = tmp_path / "other_base"
    shutil.copytree(TINY, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(
        json.dumps(config | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}})
    )
    profile.write_text(PROFILE.format(base=base))
    line = refused(words(folder, "--dataset", dataset, "--output", out), 2, capsys)
    assert f'another base ("{TINY}", here "{base}")' in line


def test_a_plan_trains_nothing_and_says_what_it_needs(folder, tmp_path, capsys):
    pairs = [("notice?", "30 days"), ("claim?", "1 year"), ("long?", LONG)]
    dataset = chats(tmp_path / "data.jsonl", pairs)
    command = words(folder, "--plan", "--dataset", dataset, "--gpu", "l4")
    assert cli.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] and found["device"] == "NVIDIA L4 (24 GB)" and found["change"] == {}
    assert found["bytes"] == sum(part["num_bytes"] for part in found["parts"])
    assert found["lengths"]["num_samples"] == 2 and found["lengths"]["num_refused"] == 1
    assert found["steps"] == 2 and found["tokens"] == 2 * found["lengths"]["num_tokens"]
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    assert re.search(r"on NVIDIA L4 \(24 GB\): \d+\.\d\d of 22\.00 GiB, but training refuses this\n", text)
    assert f"\n{dataset}:3: 1 of 3 samples are longer than max_length=64" in text and "it fits" not in text
    assert found["refusals"] == [found["lengths"]["refusal"]]
    assert found["refusals"][0] in text.replace("\n", " ")
    assert "1 refused, none cut" in text and "note: all of it is an estimate" in text
    assert not (tmp_path / "workspace").exists() and not list(folder.rglob("*.safetensors"))


@pytest.mark.train
def test_a_plan_says_nothing_that_the_libraries_would(folder, tmp_path):
    """Of a kernel that is not installed, and of a sample longer than the base's context."""
    dataset = chats(tmp_path / "data.jsonl", [("notice?", "30 days"), ("long?", LONG * 30)])
    code = "import sys; from factory import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *words(folder, "--plan", "--dataset", dataset)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "training refuses this" in found.stdout and found.stderr == ""


def test_a_plan_needs_no_weights_and_names_what_to_change(folder, tmp_path, capsys):
    from test_plan import config_only

    config_only(tmp_path, "70b")
    profile = folder / "profiles/tiny.yaml"
    profile.write_text(PROFILE.format(base=tmp_path / "70b"))
    assert cli.main(words(folder, "--plan", "--gpu", "h100")) == 0
    assert "it fits\n" in capsys.readouterr().out
    text = PROFILE.format(base=tmp_path / "70b").replace("batch_size: 4", "batch_size: 64")
    profile.write_text(text.replace("max_length: 64", "max_length: 2048"))
    assert cli.main(words(folder, "--plan", "--gpu", "h100")) == 0
    shown = capsys.readouterr().out
    assert "it does not fit\nit fits with " in shown and "gradient_accumulation: " in shown
    assert cli.main(words(folder, "--plan", "--gpu", "l4")) == 0
    assert "take a smaller base" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--plan", "--gpu", "l40"], "did you mean 'l40s'"),
        (["--plan", "--output", "x"], "--plan writes nothing"),
        (["--gpu", "l40s"], "--gpu goes with --plan"),
        (["--dataset", "x.jsonl"], "--dataset needs --output"),
        (["--dataset", "absent.jsonl", "--output", "x"], "absent.jsonl: there is no such dataset"),
        (["--dataset", "dat_0123", "--output", "x"], "datasets/dat_0123.jsonl: there is no such dataset"),
        (["--output", "x"], "--output goes with --dataset or --role refiner"),
        (["--plan", "--role", "refiner"], "training.refiner: no refiner is trained here"),
    ],
)
def test_options_that_do_not_go_together_are_refused(folder, more, said, capsys):
    assert said in refused(words(folder, *more), 2, capsys)


def test_a_datasets_id_is_looked_for_in_the_workspace(tmp_path):
    from factory.training_session import find_dataset

    (tmp_path / "datasets").mkdir()
    path = some(tmp_path / "datasets/dat_0a1b.jsonl")
    assert find_dataset("dat_0a1b", tmp_path) == path


def trainer(folder, kind=QLoRA, **options):
    given = {"max_steps": 2, "batch_size": 4, "max_length": 64, "num_threads": 1} | options
    return kind(QLoRAOptions(**given), SimpleNamespace(folder=folder, recipe=SimpleNamespace(seed=1)))


def train(folder, dataset, base=TINY, **options):
    """Trains into `folder`/out; the error that it ends with, whose folder is gone."""
    with pytest.raises(TrainingError) as caught:
        trainer(folder, Here, **options).train(dataset, str(base), folder / "out", lambda *_: None)
    assert not (folder / "out").exists()
    return caught.value


@pytest.mark.train
@pytest.mark.parametrize(
    ("pairs", "what", "hint"),
    [
        ([], "the dataset is empty", "at least one chat"),
        ([("q?", LONG), (LONG, "a")], "2 of 2 samples are longer than max_length=64", "nothing is truncated"),
    ],
)
def test_a_dataset_without_a_sample_to_learn_is_refused(tmp_path, pairs, what, hint):
    error = train(tmp_path, chats(tmp_path / "data.jsonl", pairs))
    assert what in error.what and hint in error.hint


@pytest.mark.train
def test_what_the_process_that_trains_refuses_is_wrong_input(folder, tmp_path, capsys):
    """The error crosses from the worker, which alone reads the samples, with its class."""
    dataset = chats(tmp_path / "data.jsonl", [("q?", "a"), ("q?", LONG)])
    line = refused(words(folder, "--dataset", dataset, "--output", tmp_path / "out"), 2, capsys)
    assert line.startswith(f"error: {dataset}:2: 1 of 2 samples are longer")


ROLES = "the known ones are system, user, assistant and tool"
ANSWER = [{"role": "assistant", "content": "a"}]
PAIR = {"prompt": [{"role": "human", "content": "q"}], "chosen": ANSWER, "rejected": ANSWER}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "{}: the dataset is empty"),
        (b'{"messages": [', "{}:1: not a line like"),
        (
            b'{"question": "q", "answer": "a"}',
            'not a line like {{"messages": [{{"role": "user", "content": "',
        ),
        (b'{"question": "q", "answer": "a"}', "found the keys question, answer"),
        (b'\n{"messages": []}', "{}:1: not a line like"),
        ('{"messages": "caf\u00e9"}'.encode("latin-1"), "{}:1: not UTF-8 text \u2014 save the file as UTF-8"),
        (
            b'{"messages": [{"role": "human", "content": "q"}]}',
            "{}:1: the role 'human' is not known \u2014 " + ROLES,
        ),
        (b'{"messages": [{"role": ["user"], "content": "q"}]}', "{}:1: the role ['user'] is not known"),
        (json.dumps(PAIR).encode(), "{}: the dataset holds judged answers alone"),
    ],
)
@pytest.mark.train
def test_a_plan_refuses_a_file_that_is_no_dataset_as_wrong_input(folder, tmp_path, content, said, capsys):
    dataset = tmp_path / "data.jsonl"
    dataset.write_bytes(content)
    line = refused(words(folder, "--plan", "--dataset", dataset), 2, capsys)
    assert said.format(dataset) in line


@pytest.mark.train
def test_a_plan_refuses_judged_answers_as_training_would(folder, tmp_path, capsys):
    dataset = some(tmp_path / "data.jsonl")
    command = words(folder, "--plan", "--dataset", dataset)
    dataset.write_text(dataset.read_text() + json.dumps(PAIR))
    assert f"{dataset}:9: the role 'human' is not known" in refused(command, 2, capsys)
    dataset.write_text(dataset.read_text().replace("human", "user"))
    assert "judged answers and no preference is trained" in refused(command, 2, capsys)
    profile = folder / "profiles/tiny.yaml"
    profile.write_text(profile.read_text().replace("num_threads", "preference: {}, num_threads"))
    assert cli.main(command) == 0 and "it fits\n" in capsys.readouterr().out
    dataset.write_text(dataset.read_text().replace('"q"', f'"{LONG}"'))
    assert "of the judged answers (chosen), 1 of 1 samples are longer" in refused(command, 2, capsys)


@pytest.mark.train
def test_what_marks_a_utf_8_file_is_no_part_of_its_first_line(folder, tmp_path, capsys):
    dataset = some(tmp_path / "data.jsonl")
    dataset.write_bytes(b"\xef\xbb\xbf" + dataset.read_bytes())
    assert cli.main(words(folder, "--plan", "--dataset", dataset)) == 0


@pytest.mark.parametrize("output", ["/proc/x", "{file}/x"])
def test_an_output_that_cannot_be_written_is_named_as_it_was_given(folder, tmp_path, output, capsys):
    dataset = some(tmp_path / "data.jsonl")
    output = output.format(file=dataset)
    line = refused(words(folder, "--dataset", dataset, "--output", output), 2, capsys)
    assert f"error: {output}: the adapter cannot be written: " in line and "partial" not in line


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TrainingRefused("w", where="a.jsonl:1", hint="h"), 2),
        (RecipeError("w", where="a", hint="h"), 2),
        (DivergedError("w", hint="h"), 1),
        (TrainingError("w"), 1),
    ],
)
def test_an_error_leaves_its_process_as_what_it_is(error, code):
    from training.reported import heard, told

    found = heard(json.loads(json.dumps(told(error))))
    assert type(found) is type(error) and str(found) == str(error) and found.exit_code == code


def test_an_error_that_takes_more_than_its_parts_still_arrives():
    from training.reported import heard, told

    found = heard(told(EndpointError("no answer", kind="timeout", where="hub")))
    assert type(found) is TrainingError and str(found) == "hub: no answer"


def test_what_a_refiner_cannot_learn_is_named_by_its_draft(tmp_path, monkeypatch, capsys):
    """Its examples are a file that is gone by the time somebody reads this."""

    def refuse(self, dataset, *_):
        assert len(dataset.read_text().splitlines()) > 17
        raise TrainingError("too long", where=f"{dataset}:17", hint="shorten it")

    monkeypatch.setattr(QLoRA, "train", refuse)
    recipe = str(TINY.parents[2] / "recipes/georgia_workers_comp")
    command = ["train", recipe, "--profile", "tiny", "--role", "refiner", "--output", str(tmp_path / "out")]
    assert refused(command, 1, capsys) == "error: gold.refiner, draft 17: too long — shorten it"


@pytest.mark.train
def test_a_template_that_does_not_teach_to_end_a_turn_is_refused(tmp_path):
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    template = (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}{% generation %}"
        "{{ message['content'] }}{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    )
    (base / "chat_template.jinja").write_text(template)
    error = train(tmp_path, some(tmp_path / "data.jsonl"), base)
    assert "end of the assistant's turn is not learned" in error.what and "end-of-turn token" in error.hint


@pytest.mark.train
def test_a_loss_that_is_no_number_stops_training_at_once(tmp_path):
    """A rate so high that the weights overflow: it stops long before its last step, and saves nothing."""
    seen = []
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step \d+") as caught:
        worker = trainer(
            tmp_path, learning_rate=1e30, max_steps=500, lr_scheduler="constant", warmup_share=0.0
        )
        dataset = some(tmp_path / "data.jsonl")
        worker.train(dataset, str(TINY), tmp_path / "out", lambda done, *_: seen.append(done))
    assert "learning_rate" in caught.value.hint and max(seen) < 20
    assert not (tmp_path / "out").exists()


@pytest.mark.train
def test_memory_that_runs_out_says_what_to_lower(tmp_path):
    """The worker may have 6 GiB of addresses; a batch of 64 long samples takes more."""
    dataset = chats(tmp_path / "data.jsonl", [(LONG * 12, LONG)] * 64)
    script = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "from pathlib import Path\nfrom test_train_command import TINY, trainer\n"
        "folder = Path(sys.argv[2])\n"
        "worker = trainer(folder, batch_size=64, max_length=100000, quantize=False)\n"
        "worker.train(folder / 'data.jsonl', str(TINY), folder / 'out', lambda *_: None)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30)),
    )
    last = found.stderr.splitlines()[-1]
    assert "the device ran out of memory" in last, found.stderr[-2000:]
    for advice in (
        "batch_size to 32 with gradient_accumulation 2",
        "gradient_checkpointing",
        "quantize",
        "max_length below",
    ):
        assert advice in last
    assert dataset.exists() and not (tmp_path / "out").exists()
