"""Stands in for vLLM in `factory.models.vllm_worker`, with its real lines and its real socket.

    FACTORY_SOCKET=7 python fake_worker.py

A message 'die' ends it, 'hang' is never answered, 'status 400 words' is refused, 'slow' waits a little;
anything else is answered by model, message and process. /history tells what it was asked and what was
taken back, /hang nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from typing import Any

from factory.models.vllm_worker import MAX_LINE, SOCKET, Worker

history: list[str] = []
adapters: list[str] = []


def completion(text: str) -> str:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    return json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})


async def answer(path: str, body: Any) -> tuple[int, str]:
    if path != "/v1/chat/completions":
        history.append(path)
    if path == "/history":
        return 200, json.dumps(history)
    if path == "/hang":
        await asyncio.sleep(600)
    if path == "/v1/load_lora_adapter":
        adapters.append(body["lora_name"])
        return 200, '"Success"'
    if path == "/v1/models":
        return 200, json.dumps({"data": [{"id": name} for name in ("base", *adapters)]})
    text = body["messages"][-1]["content"]
    if text == "die":
        os._exit(3)
    if text == "break":
        raise ZeroDivisionError("broken")
    if text == "hang":
        try:
            await asyncio.sleep(600)
        finally:
            history.append("taken back")
    if text.startswith("slow"):
        await asyncio.sleep(0.2)
    if text.startswith("status"):
        return int(text.split()[1]), json.dumps({"error": {"message": text}})
    return 200, completion(f"{body['model']} {text} {os.getpid()}")


async def main() -> None:
    mine = socket.socket(fileno=int(os.environ[SOCKET]))
    reader, writer = await asyncio.open_unix_connection(sock=mine, limit=MAX_LINE)
    await Worker(answer, writer).serve(reader)


if __name__ == "__main__":
    print("(EngineCore pid=7) INFO 11-23 18:38:02 [core.py:133] loading weights", flush=True)
    if "--die" in sys.argv:
        sys.exit("RuntimeError: no such kernel")
    if "--never-ready" in sys.argv:
        import time

        time.sleep(600)
    asyncio.run(main())
