"""Stands in for vLLM's server process where a test is about processes, not about models.

    python fake_vllm.py --port P [--die TEXT] [--never-ready] [--children] [--slow SECONDS]

It has the paths that the factory uses, behind the key in VLLM_API_KEY, and tells what happened to it
at /v1/history. `--children` starts some that do not want to go: one ignores TERM, one left the group.
A message 'half' leaves it as vLLM is whose engine is dead and who waits for it.
With `--slow` it listens only after so many seconds, and loads an adapter as slowly.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def die_unless(there: Path) -> None:
    if not there.exists():
        there.touch()
        os._exit(3)


def serve(port: int, ready: bool, slow: float) -> None:
    from aiohttp import web

    adapters: dict[str, str] = {}
    history: list[str] = ["start"]
    state = {"half": False}

    @web.middleware
    async def with_key(request, handler):
        if request.path == "/health":
            return web.Response(status=200 if ready and not state["half"] else 503)
        if request.headers.get("Authorization") != f"Bearer {os.environ['VLLM_API_KEY']}":
            return web.Response(status=401)
        if state["half"] and request.path.startswith("/v1/load"):
            await asyncio.sleep(600)
        if state["half"]:
            request.transport.abort()
            return web.Response()
        return await handler(request)

    async def models(_):
        loaded = [{"id": name, "root": path, "parent": "base"} for name, path in adapters.items()]
        return web.json_response({"data": [{"id": "base", "root": "/base", "parent": None}, *loaded]})

    async def load(request):
        body = await request.json()
        await asyncio.sleep(slow)
        if body["lora_name"] in adapters:
            return web.json_response({"error": {"message": "already loaded"}}, status=400)
        adapters[body["lora_name"]] = body["lora_path"]
        history.append(f"load {body['lora_name']}")
        return web.Response(text="Success")

    async def note(request):
        history.append(request.path)
        return web.json_response({})

    async def complete(request):
        body = await request.json()
        said = [message["content"] for message in body["messages"]]
        if said[-1] == "die":
            os._exit(3)
        if said[0].startswith("die once "):
            die_unless(Path(said[0].removeprefix("die once ")))
        state["half"] |= body["messages"][-1]["content"] == "half"
        if body["model"] not in ("base", *adapters):
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        message = {"role": "assistant", "content": f"{body['model']} at {os.getpid()}"}
        reply = {"choices": [{"message": message, "finish_reason": "stop"}]}
        if body.get("prompt_logprobs") is not None:
            held = -1.0 if body["model"] == "base" else -2.0
            words = [{"7": {"decoded_token": word, "logprob": held}} for word in said[-1].split()]
            reply["prompt_logprobs"] = [None, *words]
        return web.json_response(reply)

    app = web.Application(middlewares=[with_key])
    app.router.add_get("/health", models)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/v1/history", lambda _: web.json_response(history))
    app.router.add_post("/v1/load_lora_adapter", load)
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_post("/sleep", note)
    app.router.add_post("/wake_up", note)
    web.run_app(app, host="127.0.0.1", port=port, print=None, shutdown_timeout=0.1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--die", default="")
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--children", action="store_true")
    parser.add_argument("--slow", type=float, default=0.0)
    options = parser.parse_args()
    print("(EngineCore pid=7) INFO 11-23 18:38:02 [core.py:133] loading weights", flush=True)
    if options.die:
        print(f"(EngineCore pid=7) ERROR 11-23 18:38:02 [core.py:133] {options.die}", flush=True)
        print("(APIServer pid=6) RuntimeError: Engine core initialization failed. See above.", flush=True)
        sys.exit(1)
    if options.children:
        stubborn = subprocess.Popen([sys.executable, "-c", STUBBORN])
        gone = subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=True)
        words = f"[sys.executable, '-c', {STUBBORN!r}], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL"
        orphan = f"import subprocess, sys; print(subprocess.Popen({words}).pid)"
        made = subprocess.run([sys.executable, "-c", orphan], capture_output=True, text=True, check=True)
        print(f"pids {os.getpid()} {stubborn.pid} {gone.pid} {made.stdout.strip()}", flush=True)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.port:
        time.sleep(options.slow)
        serve(options.port, not options.never_ready, options.slow)
    else:
        time.sleep(600)


if __name__ == "__main__":
    main()
