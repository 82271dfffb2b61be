"""An embedder in a folder, in sentence-transformers' form: a transformer, and how its tokens become one row.

Of the folder's modules are read: the transformer, its pooling (`1_Pooling/config.json`: mean, first token or
maximum) and whether rows are brought to unit length, which they are here anyway. A folder with a further
module, such as a dense layer, is refused, since without it the rows would be others. Without
`modules.json` it is a plain transformer, pooled by the mean, as sentence-transformers does. Runs on the CPU;
texts are cut at the model's own longest length.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from factory.embedding.bundled import unit_rows
from factory.errors import FactoryError, RecipeError
from factory.models.folders import TRAINABLE_WEIGHTS, check_model_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH_TEXTS = 64
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
POOLINGS = ("mean", "cls", "max")


class FolderModel:
    """Loads when it is first used, on the CPU. Raises RecipeError for a folder that is none."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = (folder / Path(name).expanduser()).resolve()
        self._transformer, self._pooling = _read_modules(self._path)
        check_model_folder(self._transformer, "embedder.folder", TRAINABLE_WEIGHTS)
        self._longest = _json(self._path / "sentence_bert_config.json").get("max_seq_length")
        self._model: tuple[Any, Any] | None = None

    @property
    def id(self) -> str:
        """By the hash of every file that says something about the rows."""
        from factory.models.identity import hash_file
        from factory.types import digest

        files = sorted(
            path for path in self._path.rglob("*") if path.suffix in (".json", ".safetensors", ".bin", ".txt")
        )
        return "folder:" + digest(
            [[str(path.relative_to(self._path)), hash_file(path)] for path in files], 12
        )

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (texts, hidden size); see `Embedder`. Raises FactoryError where torch is not installed."""
        # By length, so that a batch holds little padding.
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        parts = [order[start : start + BATCH_TEXTS] for start in range(0, len(order), BATCH_TEXTS)]
        found = [self._embed_batch([texts[at] for at in part]) for part in parts]
        if not found:
            return np.zeros((0, 1), np.float32)
        rows = np.empty((len(texts), found[0].shape[1]), np.float32)
        rows[order] = np.concatenate(found)
        return unit_rows(rows)

    def _embed_batch(self, texts: list[str]) -> NDArray[np.float32]:
        tokenizer, model = self._loaded()
        import torch

        limit = min(self._longest or tokenizer.model_max_length, model.config.max_position_embeddings)
        batch = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][..., None].float()
        if self._pooling == "cls":
            pooled = hidden[:, 0]
        elif self._pooling == "max":
            pooled = hidden.masked_fill(mask == 0, -1e9).max(dim=1).values
        else:
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        rows: NDArray[np.float32] = pooled.numpy().astype(np.float32)
        return rows

    def _loaded(self) -> tuple[Any, Any]:
        if self._model is None:
            try:
                import transformers
            except ImportError as error:
                hint = "install the extra `train`, or use `bundled`"
                raise FactoryError("a local embedder needs torch and transformers", hint=hint) from error
            where = str(self._transformer)
            tokenizer = transformers.AutoTokenizer.from_pretrained(where, local_files_only=True)
            model = transformers.AutoModel.from_pretrained(where, local_files_only=True).eval()
            self._model = (tokenizer, model)
        return self._model


def _read_modules(path: Path) -> tuple[Path, str]:
    """The folder of the transformer, and how its tokens are pooled; raises RecipeError."""
    if not path.is_dir():
        raise RecipeError(f"there is no model directory {path}", where="embedder.folder")
    if not (path / "modules.json").is_file():
        return path, "mean"
    transformer, pooling = path, "mean"
    for module in _json(path / "modules.json", []):
        kind = str(module.get("type", "")).rpartition(".")[2]
        inner = (path / str(module.get("path", ""))).resolve()
        if kind not in KNOWN_MODULES or not inner.is_relative_to(path):
            raise RecipeError(
                f"its module '{kind}' is not known here",
                where="embedder.folder",
                hint=f"known: {', '.join(KNOWN_MODULES)}",
            )
        if kind == "Transformer":
            transformer = inner
        if kind == "Pooling":
            pooling = _pooling_of(_json(inner / "config.json"))
    return transformer, pooling


def _pooling_of(config: dict[str, Any]) -> str:
    """The one way of pooling that a configuration names, in either of the forms that there are."""
    flags = {
        "mean": "pooling_mode_mean_tokens",
        "cls": "pooling_mode_cls_token",
        "max": "pooling_mode_max_tokens",
    }
    given = config.get("pooling_mode", [name for name, flag in flags.items() if config.get(flag)])
    given = [given] if isinstance(given, str) else list(given)
    others = [
        name
        for name, value in config.items()
        if name.startswith("pooling_mode_") and value is True and name not in flags.values()
    ]
    if len(given) != 1 or given[0] not in POOLINGS or others:
        raise RecipeError(
            f"its pooling {[*given, *others]} is not known here",
            where="embedder.folder",
            hint=f"one of {', '.join(POOLINGS)}",
        )
    return str(given[0])


def _json(path: Path, missing: Any = None) -> Any:
    """What a JSON file holds; `missing` or an empty mapping where there is none. Raises RecipeError."""
    if not path.is_file():
        return {} if missing is None else missing
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read: {error}", where="embedder.folder") from None
