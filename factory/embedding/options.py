"""How a step's options say which embedder it uses, and what makes one of it.

Three kinds and no fallback between them: `bundled`, a folder with a sentence-transformers model, or a
server of the recipe. What an embedder gives is a row of unit length for each text, so that the product of
two rows is their cosine. Which texts are compared, and when they are alike, is the step's matter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, cast

from pydantic import Field

from factory.errors import RecipeError
from factory.servers import EndpointServer
from factory.strict import Strict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from factory.domain import Domain
    from factory.embedding.account import Account
    from factory.recipe import Recipe


class Embedder(Protocol):
    """Makes vectors of texts; `id` names model and weights by content."""

    @property
    def id(self) -> str: ...

    def bind(self, account: Account) -> None:
        """Hands over where rows are kept and calls counted; one that is asked at an endpoint needs it."""
        ...

    async def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (texts, dimensions), each row of unit length, or zero where there is nothing in a text.

        Raises EndpointError where an endpoint does not answer, and BudgetExceeded before a call that the
        budget cannot bear.
        """
        ...


class LocalModel(Protocol):
    """A model in this process; `embed` gives the rows of `Embedder.vectors` and blocks while it works."""

    @property
    def id(self) -> str: ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


class InThread:
    """An embedder whose model works in a thread beside the event loop."""

    def __init__(self, model: LocalModel) -> None:
        self.model = model

    @property
    def id(self) -> str:
        return self.model.id

    def bind(self, account: Account) -> None:
        """Nothing: its rows cost nothing and are made again."""

    async def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `Embedder`."""
        return await asyncio.to_thread(self.model.embed, texts)


class FolderEmbedder(Strict):
    """A local model in sentence-transformers' form; needs the extra `train`, for torch and transformers."""

    folder: str = Field(description="Folder of the model, relative to the recipe.")


class ServerEmbedder(Strict):
    """A model at an endpoint of the recipe's `servers`, by /v1/embeddings."""

    server: str = Field(description="A key of `servers`, of kind endpoint.")
    model: str = Field(description="Name of the embedding model there.")
    price: float = Field(0.0, ge=0, description="Dollars per million tokens, for the budget.")


EmbedderSpec = Literal["bundled"] | FolderEmbedder | ServerEmbedder
DESCRIPTION = (
    "`bundled` (no network, no torch), `{folder: PATH}` of a sentence-transformers model, or "
    "`{server: NAME, model: NAME}` at an endpoint, with `price` in dollars per million tokens: its rows are "
    "kept in the workspace, and its calls count in the budget."
)


def find_misfit(spec: EmbedderSpec, recipe: Recipe) -> tuple[str, str] | None:
    """(what is wrong, what to do) with an embedder in a recipe; None where it fits."""
    if not isinstance(spec, ServerEmbedder):
        return None
    server = recipe.servers.get(spec.server)
    if server is None:
        return f"there is no server '{spec.server}'", f"known: {', '.join(recipe.servers)}"
    if not isinstance(server, EndpointServer):
        return f"the server '{spec.server}' is no endpoint", "embeddings are asked of kind endpoint only"
    return None


def create_embedder(spec: EmbedderSpec, domain: Domain) -> Embedder:
    """The embedder of a step. Loads no weights and connects to nothing before it is used.

    Raises RecipeError for a folder that holds no model, a server that is none, a key that is not set.
    """
    if spec == "bundled":
        from factory.embedding.bundled import bundled

        return InThread(bundled())
    if isinstance(spec, FolderEmbedder):
        from factory.embedding.folder import FolderModel

        return InThread(FolderModel(domain.folder, spec.folder))
    from factory.embedding.endpoint import EndpointEmbedder

    if wrong := find_misfit(spec, domain.recipe):
        raise RecipeError(wrong[0], where="embedder", hint=wrong[1])
    server = cast("EndpointServer", domain.recipe.servers[spec.server])
    return EndpointEmbedder(server, spec.model, spec.price)
