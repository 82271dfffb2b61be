"""The embedder that is always there: a vector for each piece of a word, averaged over the text.

The vectors are those of the package wordllama (Miller 2024, MIT licence): token embeddings of large language
models, reduced to 256 numbers and trained so that averages of like texts are alike, as in "Towards Universal
Paraphrastic Sentence Embeddings" (Wieting et al. 2016, arXiv 1511.08198). Only its two files are read;
its code, which can download others, is not run. The order of words does not count, and words of other
languages than English are known the less, the rarer they were among what the vectors come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from factory.errors import FactoryError

if TYPE_CHECKING:
    from numpy.typing import NDArray

WEIGHTS = "weights/l2_supercat_256.safetensors"
TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
BATCH_TEXTS = 1024


@cache
def bundled() -> BundledEmbedder:
    """The one of this process."""
    return BundledEmbedder()


class BundledEmbedder:
    """Static token vectors; 16 MB are read when it is first used."""

    def __init__(self) -> None:
        self._files: tuple[Any, NDArray[np.float32]] | None = None
        self._vector_of = lru_cache(maxsize=1 << 16)(self._word)

    @property
    def id(self) -> str:
        """The same for the same weights, whatever the package's version."""
        from factory.models.identity import hash_file

        return f"wordllama:{hash_file(_path(WEIGHTS))[:12]}"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (texts, 256); see `Embedder`."""
        tokenizer, vectors = self._loaded()
        rows = np.zeros((len(texts), vectors.shape[1]), np.float32)
        for start in range(0, len(texts), BATCH_TEXTS):
            part = [text.encode("utf-8", "replace").decode() for text in texts[start : start + BATCH_TEXTS]]
            for at, found in enumerate(tokenizer.encode_batch_fast(part, add_special_tokens=False), start):
                if found.ids:
                    rows[at] = vectors[found.ids].mean(axis=0)
        return unit_rows(rows)

    def words(self, words: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Vectors of single words: rows of unit length (words, 256), and how long they were (words,).

        The length says how much a word says: that of `the` is 2, of `milk` 17.
        """
        found = np.stack([self._vector_of(word) for word in words])
        lengths = np.linalg.norm(found, axis=1)
        return found / np.maximum(lengths, 1e-9)[:, None], lengths

    def _word(self, word: str) -> NDArray[np.float32]:
        tokenizer, vectors = self._loaded()
        ids = tokenizer.encode(word.encode("utf-8", "replace").decode(), add_special_tokens=False).ids
        mean: NDArray[np.float32] = vectors[ids].mean(axis=0) if ids else vectors[0] * 0
        return mean

    def _loaded(self) -> tuple[Any, NDArray[np.float32]]:
        if self._files is None:
            from safetensors.numpy import load_file
            from tokenizers import Tokenizer

            vectors = load_file(_path(WEIGHTS))["embedding.weight"].astype(np.float32)
            self._files = (Tokenizer.from_file(str(_path(TOKENIZER))), vectors)
        return self._files


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows at unit length; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return unit


def _path(name: str) -> Path:
    """A file of the package wordllama, which is not imported; raises FactoryError where it is not there."""
    found = find_spec("wordllama")
    for folder in (found.submodule_search_locations or []) if found else []:
        if (path := Path(folder) / name).is_file():
            return path
    raise FactoryError(f"the package wordllama lacks its file {name}", hint="install it again")
