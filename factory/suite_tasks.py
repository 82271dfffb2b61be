"""What must be true of a folder of lm-evaluation-harness tasks before a model is asked any of them.

The harness passes over files that it cannot read, ends in errors that name no file, and takes a misspelt
field for a text of its own. So every task is loaded here first, and every item written as it will be asked;
what is wrong is an InputError with the task's file. Only the worker's process imports the harness.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factory.errors import InputError

TEMPLATES = ("doc_to_text", "doc_to_target")
SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")
ITEMS_HINT = "one JSON object a line, every one with the same fields"


def check_tasks(folder: Path) -> list[str]:
    """The names of the folder's tasks; raises InputError for the first thing that is wrong with one."""
    from lm_eval import utils
    from lm_eval.tasks import TaskManager

    utils.env.finalize = _refuse_none  # else an item without a field is asked about 'None'
    check_files(folder)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    names = sorted(manager.all_subtasks)
    if not names:
        what = f"there is no task in {folder}"
        raise InputError(what, where="--suite", hint="a YAML file with the key `task` makes one")
    for group in manager.all_groups:
        _check_group(manager, group, folder)
    for name in names:
        path = manager.task_index[name].yaml_path
        where = f"{path.relative_to(folder) if path else folder}: task '{name}'"
        check_items(_load(manager, name, where), where)
    return names


def check_files(folder: Path) -> None:
    """Raises InputError for a YAML file that cannot be read, which the harness passes over in silence."""
    import yaml
    from lm_eval.tasks._yaml_loader import load_yaml

    for path in sorted(folder.rglob("*.yaml")):
        try:
            load_yaml(path, resolve_func=False)
        except (yaml.YAMLError, OSError, ValueError) as error:
            where = str(path.relative_to(folder))
            raise InputError(
                f"it cannot be read: {error}", where=where, hint="mend it, or take it out"
            ) from None


def _check_group(manager: Any, name: str, folder: Path) -> None:
    """Raises InputError where a group names a task that no file makes: the harness leaves it out."""
    entry = manager.task_index[name]
    members = (entry.cfg or {}).get("task") or []
    for each in [members] if isinstance(members, str) else members:
        member = each if isinstance(each, str) else each.get("task") or each.get("group")
        if member not in manager.task_index:
            what = f"there is no task '{member}', which the group '{name}' names"
            hint = "each task needs a YAML file of its own, with the key `task`"
            raise InputError(what, where=str(entry.yaml_path.relative_to(folder)), hint=hint)


def _load(manager: Any, name: str, where: str) -> Any:
    config = manager.task_index[name].cfg or {}
    files = list(data_files(config))
    for path in files:
        if not path.is_file():
            hint = "its `dataset_kwargs.data_files` starts at the folder of tasks"
            raise InputError(f"there is no data file {path}", where=where, hint=hint)
        with path.open("rb") as file:
            if not file.read(1 << 20).strip():
                raise InputError(f"its data file {path} is empty", where=where, hint=ITEMS_HINT)
    _check_splits(config, where)
    try:
        return manager.load(name)["tasks"][name]
    except Exception as error:
        for path in files if config.get("dataset_path") == "json" else ():
            refuse_if_no_json(path, where)
        hint = "mend its file, or its data, which must lie in the folder: nothing is fetched"
        raise InputError(f"it cannot be loaded: {_told(error)}", where=where, hint=hint) from error


def _check_splits(config: dict[str, Any], where: str) -> None:
    """Raises InputError for a split that is none of those that its data files make."""
    named = (config.get("dataset_kwargs") or {}).get("data_files")
    splits = list(named) if isinstance(named, dict) else ["train"] if named else []
    for key in SPLITS:
        if splits and config.get(key) not in (None, *splits):
            what = f"its `{key}` '{config[key]}' is none of its data"
            raise InputError(what, where=where, hint=f"its `data_files` make: {', '.join(splits)}")


def data_files(config: dict[str, Any]) -> Iterator[Path]:
    """The local files that a task's YAML names, but for patterns."""
    named = (config.get("dataset_kwargs") or {}).get("data_files") or []
    for each in named.values() if isinstance(named, dict) else [named]:
        for path in [each] if isinstance(each, str) else each:
            if not any(sign in path for sign in ("*", "?", "[", "://")):
                yield Path(path)


def refuse_if_no_json(path: Path, where: str) -> None:
    """Raises InputError with the first line that is no JSON object, where the whole is no JSON either."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        json.loads(text)
    except ValueError:
        for number, line in enumerate(text.split("\n"), start=1):
            try:
                is_object = not line.strip() or isinstance(json.loads(line), dict)
            except ValueError:
                is_object = False
            if not is_object:
                what = f"{path}:{number} is no JSON object: {line.strip()[:40]}"
                raise InputError(what, where=where, hint=ITEMS_HINT) from None


def check_items(task: Any, where: str) -> None:
    """Raises InputError where there are no items, or one of them cannot be asked or scored."""
    try:
        items = list(task.eval_docs)
    except Exception as error:
        hint = "`test_split` or `validation_split` names one of its data"
        raise InputError(f"its items cannot be had: {_told(error)}", where=where, hint=hint) from error
    if not items:
        raise InputError("it has no items", where=where, hint="put some into its data file")
    for key in TEMPLATES:
        _refuse_unknown_field(task, key, items[0], where)
    for number, item in enumerate(items):
        try:
            fault = _fault_of(task, item)
        except Exception as error:  # noqa: BLE001 (templates and functions of somebody else's)
            fault = f"it cannot be asked: {_told(error)}"
        if fault:
            fields = f"its fields: {', '.join(map(str, item))}" if isinstance(item, dict) else ""
            raise InputError(fault, where=f"{where}, item {number}", hint=fields or "mend its templates")


def _refuse_unknown_field(task: Any, key: str, item: Any, where: str) -> None:
    """A word alone names a field; where there is none of that name the harness takes it for a text."""
    value = getattr(getattr(task, "config", None), key, None)
    if not isinstance(value, str) or not value.isidentifier() or not isinstance(item, dict) or value in item:
        return
    if key == "doc_to_target" and _has_choices(task) and value in task.doc_to_choice(item):
        return
    hint = f"its fields: {', '.join(item)}; a text that is the same for all is written {{{{'{value}'}}}}"
    raise InputError(f"`{key}` names the field '{value}', which its items have not", where=where, hint=hint)


def _fault_of(task: Any, item: Any) -> str:
    """What is wrong with an item once it is written out; raises what its templates raise."""
    asked, target = task.doc_to_text(item), task.doc_to_target(item)
    if asked is None or target is None:
        return f"`{'doc_to_text' if asked is None else 'doc_to_target'}` gives nothing for it"
    if not _has_choices(task):
        return ""
    choices = task.doc_to_choice(item)
    right = asked if isinstance(asked, int) else target  # a number in place of a question: choices are these
    for each in right if isinstance(right, list) else [right]:
        if not (0 <= each < len(choices) if isinstance(each, int) else each in choices):
            return f"the right answer {each!r} is none of its {len(choices)} choices"
    return ""


def _has_choices(task: Any) -> bool:
    config = getattr(task, "config", None)
    return getattr(task, "OUTPUT_TYPE", "") == "multiple_choice" and bool(
        getattr(config, "doc_to_choice", None)
    )


def _refuse_none(value: Any) -> Any:
    """What a template prints; raises ValueError where that is a field which an item has not."""
    if value is None:
        raise ValueError("a field that its template prints is missing")
    return value


def _told(error: BaseException) -> str:
    """An error in words: what happened, where a library hides it behind one that says that something did."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"[:300]
