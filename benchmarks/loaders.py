"""What other trainers' own loaders make of our exports: samples and turns that arrive as they were.

Two datasets of made-up chats are exported by the product in all forms: one of single questions, longer
conversations, system messages and pairs, and one of which half the chats offer tools. LLaMA-Factory reads
them by the export's dataset_info.json, Axolotl by what docs/training.md says; each in an environment of its
own. What arrives is compared, turn by turn, with data/train.jsonl. Of alpaca Axolotl takes neither history
nor system message, which is why its figures are what they are.

    python -m benchmarks.loaders
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.generate import plain_environment
from benchmarks.peers import TRAINERS, Peer, environment
from factory.export import export
from factory.store.rows import sample_rows
from factory.store.store import Store
from factory.types import Message, Parent, Sample

BASE = Path(__file__).parents[1] / "tiny" / "models" / "base"
CALL = [{"name": "set_alarm", "arguments": {"at": "7:00", "days": [1, 2]}}]
TOOL = {
    "type": "function",
    "function": {
        "name": "set_alarm",
        "description": "Sets an alarm.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}, "days": {"type": "array"}}},
    },
}
FORMS = {"plain": ("sharegpt", "alpaca"), "tools": ("sharegpt",)}
CHAT = {"type": "chat_template"}
SHAREGPT = {
    "type": "chat_template",
    "field_messages": "conversations",
    "message_property_mappings": {"role": "from", "content": "value"},
    "roles": {
        "system": ["system"],
        "user": ["human"],
        "assistant": ["gpt", "function_call"],
        "tool": ["observation"],
    },
}
AXOLOTL = {  # as docs/training.md has them
    "plain": {
        "data/train.jsonl": CHAT,
        "sharegpt/train.jsonl": SHAREGPT,
        "alpaca/train.jsonl": {"type": "alpaca"},
        "preference/train.jsonl": {"type": "chat_template.default", "field_messages": "prompt"},
    },
    "tools": {"data/train.jsonl": CHAT, "sharegpt/train.jsonl": SHAREGPT},
}


def chat(number: int, *texts: str, **attributes: str) -> Sample:
    """A sample; texts are turns from the user on, the first one the system's where there is an odd number."""
    system = [Message("system", texts[0])] if len(texts) % 2 else []
    turns = [Message(("user", "assistant")[at % 2], text) for at, text in enumerate(texts[len(system) :])]
    known = {"slice": "s", "strategy": "dialogue", **attributes}
    return Sample.create([*system, *turns], [Parent(f"call_{number}", "call")], "dialogue", known)


def plain(num: int) -> list[Sample]:
    """By turns: a question, a conversation, a question under a system message, and a pair."""
    found = []
    for n in range(0, num, 4):
        found.append(chat(n, f"When is {n} due? “§ 34-9”", f"In {n} days.\nNot before."))
        found.append(chat(n + 1, f"What is {n}?", "A number.", "And then?", f"{n + 1}, of course: {{}}"))
        found.append(chat(n + 2, "Be brief.", f"Who pays for {n}?", "The employer."))
        found.append(chat(n + 3, f"Is {n} even?", "Yes.", rejected=f"No, {n} is odd."))
    return found


def tools(num: int) -> list[Sample]:
    """Half of them offer a tool and call it; the first does not."""
    return [
        chat(n, f"Wake me, {n}", json.dumps(CALL), tools=json.dumps([TOOL]))
        if n % 2
        else chat(n, f"What is {n} + 0?", str(n))
        for n in range(num)
    ]


def write(samples: Sequence[Sample], forms: Sequence[str], folder: Path) -> Path:
    """The product's export of these samples."""
    of_run = {"run_id": "run_loaders", "round": 1}
    with Store.open(folder / "workspace") as store:
        run = {"id": "run_loaders", "recipe": "loaders", "digest": "d", "config": {}, "version": "0"}
        store.append("runs", [{**run, "started_at": datetime.now(UTC)}])
        rows, edges = sample_rows(samples, "run_loaders", 1)
        store.append("samples", rows)
        store.append("edges", edges)
        store.append("datasets", [{"id": "dat_1", **of_run, "num_samples": len(samples), "guards": {}}])
        places = [{"dataset_id": "dat_1", "sample_id": each.id} for each in samples]
        store.append("dataset_samples", [{**place, "position": at} for at, place in enumerate(places)])
        event = {**of_run, "stage": "freeze", "status": "done", "detail": {"dataset": "dat_1"}}
        store.append("stages", [event])
        store.flush()
        export(store, folder / "out", forms=forms)
    return folder / "out"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def expected(out: Path, *, pairs: bool) -> list[dict[str, Any]]:
    """What has to arrive."""
    found = []
    for row in read_lines(out / ("preference" if pairs else "data") / "train.jsonl"):
        turns = [*row["prompt"], *row["chosen"], *row["rejected"]] if pairs else row["messages"]
        offered = [tool["function"] for tool in row.get("tools") or ()]
        found.append({"tools": offered, "turns": [said(turn) for turn in turns]})
    return found


def said(turn: dict[str, Any]) -> list[str]:
    """Who, and what: calls of tools as JSON."""
    calls = [call["function"] for call in turn.get("tool_calls") or ()]
    return [turn["role"], json.dumps(calls, ensure_ascii=False) if calls else turn["content"]]


def as_text(out: Path) -> list[dict[str, Any]]:
    """What has to arrive of pairs where the loader writes the template's text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    found = []
    for row in read_lines(out / "preference" / "train.jsonl"):
        asked = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        texts = {"prompt": asked}
        for name in ("chosen", "rejected"):
            whole = tokenizer.apply_chat_template(row["prompt"] + row[name], tokenize=False)
            texts[name] = whole.removeprefix(asked).rstrip()
        found.append(texts)
    return found


def load(peer: Peer, words: list[str], folder: Path) -> dict[str, Any]:
    """What a peer's loader makes of an export."""
    out = folder / f"{peer.name}.json"
    command = [str(environment(peer)), "-m", f"benchmarks.peers.{peer.module}"]
    done = subprocess.run(
        [*command, words[0], str(out), *words[1:]],
        env=plain_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{peer.name}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return found


def show(peer: Peer, name: str, wanted: list[dict[str, Any]], found: Any) -> dict[str, Any]:
    """A row of the table."""
    if isinstance(found, str):
        print(f"| {peer.name} {peer.version} | {name} | refused: {found} | | |", flush=True)
        return {"failed": found}
    same = sum(one == other for one, other in zip(wanted, found, strict=False))
    parts = [
        (w.get("turns") or [*w.items()], f.get("turns") or [*f.items()])
        for w, f in zip(wanted, found, strict=False)
    ]
    num, equal = (
        sum(len(w) for w, _ in parts),
        sum(a == b for w, f in parts for a, b in zip(w, f, strict=False)),
    )
    arrived = f"{len(found)} of {len(wanted)}"
    print(f"| {peer.name} {peer.version} | {name} | {arrived} | {same} | {equal} of {num} |", flush=True)
    return {"samples": len(wanted), "arrived": len(found), "same": same, "turns": num, "same_turns": equal}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=200, help="of each dataset")
    given = parser.parse_args()
    print("| loader | file | samples that arrive | of these as they were | turns as they were |")
    print("|" + " --- |" * 5, flush=True)
    record: dict[str, Any] = {}
    llama_factory, axolotl = TRAINERS
    with tempfile.TemporaryDirectory(prefix="factory-bench-") as name:
        for dataset, make in (("plain", plain), ("tools", tools)):
            folder = Path(name) / dataset
            out = write(make(given.samples), FORMS[dataset], folder)
            info = json.loads((out / "dataset_info.json").read_text("utf-8"))
            wanted = expected(out, pairs=False)
            found = load(llama_factory, [str(out), *info], folder)
            for key, entry in info.items():
                want = expected(out, pairs=True) if entry.get("ranking") else wanted
                file = f"{dataset}: {entry['file_name']}"
                record[f"llamafactory {file}"] = show(llama_factory, file, want, found[key])
            files = {file: {**how, "path": str(out / file)} for file, how in AXOLOTL[dataset].items()}
            found = load(axolotl, [str(BASE), json.dumps(files)], folder)
            for file in files:
                want = as_text(out) if file.startswith("preference") else wanted
                record[f"axolotl {dataset}: {file}"] = show(axolotl, f"{dataset}: {file}", want, found[file])
    print("\n" + json.dumps({"benchmark": "loaders", **record}))


if __name__ == "__main__":
    main()
