"""vLLM in a process of ours without HTTP: line by line a request, line by line its answer, as they finish.

    FACTORY_SOCKET=7 python -m factory.models.vllm_worker WORDS OF VLLM'S SERVER...

A line is JSON: [number, path, body] asks, [number, null, null] takes it back, [number, status, body] answers,
and [0, 200, null] says that the model is loaded. Paths and bodies are those of vLLM's server, and so are the
objects that answer them, hence the same answers. It ends with the other end of its socket. Only this process
imports vLLM; `factory.models.in_process` starts it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SOCKET: Final = "FACTORY_SOCKET"  # environment variable with the descriptor of our end
MAX_LINE: Final = 1 << 30
CHAT: Final = "/v1/chat/completions"

Answer = tuple[int, str]  # HTTP status and JSON


def encode(number: int, what: object, body: bytes) -> bytes:
    """A line; `body` is JSON already, without line breaks."""
    return b"[%d,%s,%s]\n" % (number, json.dumps(what).encode(), body)


class Worker:
    """Answers requests side by side; `answer` is what answers one of them."""

    def __init__(self, answer: Callable[[str, Any], Awaitable[Answer]], writer: asyncio.StreamWriter) -> None:
        self._answer = answer
        self._writer = writer
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Until the other end closes; then whatever is under way is dropped."""
        self._writer.write(encode(0, 200, b"null"))
        while line := await reader.readline():
            number, path, body = json.loads(line)
            if path is not None:
                task = self._tasks[number] = asyncio.create_task(self._reply(number, path, body))
                task.add_done_callback(partial(self._forget, number))
            elif number in self._tasks:
                self._tasks[number].cancel()
        for task in self._tasks.values():
            task.cancel()

    def _forget(self, number: int, _task: asyncio.Task[None]) -> None:
        """Also of one that was cancelled before it began, and so runs no line of its own."""
        del self._tasks[number]

    async def _reply(self, number: int, path: str, body: Any) -> None:
        try:
            status, text = await self._answer(path, body)
        except Exception as error:  # noqa: BLE001 (one request's failure must not end the others)
            status, text = 500, json.dumps({"error": {"message": f"{type(error).__name__}: {error}"}})
        self._writer.write(encode(number, status, text.encode("utf-8", "replace")))
        await self._writer.drain()


class Served:
    """What vLLM's server has behind its paths; `state` is what it sets up for them."""

    def __init__(self, engine: Any, state: Any) -> None:
        self._engine = engine
        self._chat = state.openai_serving_chat
        self._models = state.openai_serving_models

    async def answer(self, path: str, body: Any) -> Answer:
        """The status and body that the server would answer."""
        from pydantic import BaseModel, ValidationError
        from vllm.entrypoints.serve import create_error_response
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse

        try:
            found = await self._ask(path, body)
        except ValidationError as error:
            return 400, json.dumps({"error": {"message": str(error)}})
        except Exception as error:  # noqa: BLE001 (vLLM's own mapping of errors to statuses)
            found = create_error_response(error)
        if isinstance(found, ErrorResponse):
            return int(found.error.code or 500), found.model_dump_json()
        return 200, found.model_dump_json() if isinstance(found, BaseModel) else json.dumps(found)

    async def _ask(self, path: str, body: Any) -> Any:
        if path == CHAT:
            from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

            return await self._chat.create_chat_completion(ChatCompletionRequest.model_validate(body))
        if path == "/v1/load_lora_adapter":
            from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest

            return await self._models.load_lora_adapter(LoadLoRAAdapterRequest.model_validate(body))
        if path == "/v1/models":
            return await self._models.show_available_models()
        if path.startswith("/sleep"):
            return await self._engine.sleep(1, "wait")
        if path == "/wake_up":
            return await self._engine.wake_up()
        raise ValueError(f"there is no {path} here")


async def run(words: list[str]) -> None:
    """Loads the model and serves until the other end closes."""
    from starlette.datastructures import State
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
    async with build_async_engine_client(args) as engine:
        state = State()
        await init_app_state(engine, state, args, await engine.get_supported_tasks())
        mine = socket.socket(fileno=int(os.environ[SOCKET]))
        reader, writer = await asyncio.open_unix_connection(sock=mine, limit=MAX_LINE)
        await Worker(Served(engine, state).answer, writer).serve(reader)


if __name__ == "__main__":
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup

    cli_env_setup()
    asyncio.run(run(sys.argv[1:]))
