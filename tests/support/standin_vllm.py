#!/usr/bin/env python3
"""A stand-in for the `vllm` program: takes any flags, prints vLLM's start-up lines, and serves the OpenAI routes.

It is made to behave like vLLM 0.20.0 at its edges only (flags, log lines, routes, signals), for tests of what starts it.
`standin.json` in the model's folder makes it misbehave. Under the name `nvidia-smi` it is that program on one RTX 5090.
"""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def say(text):
    print(f"(EngineCore pid={os.getpid()}) INFO 04-29 09:53:04 [gpu_model_runner.py:4880] {text}", flush=True)


def option(name, default):
    found = default
    for index, argument in enumerate(sys.argv):
        if argument == f"--{name}" and index + 1 < len(sys.argv):
            found = sys.argv[index + 1]
        elif argument.startswith(f"--{name}="):
            found = argument.split("=", 1)[1]
    return found


def behaviour(model):
    try:
        return json.loads((Path(model) / "standin.json").read_text(encoding="utf-8"))
    except OSError:
        return {}


if Path(sys.argv[0]).name == "nvidia-smi":
    print(f"NVIDIA GeForce RTX 5090, {behaviour('/model').get('free_mib', 2652)}")
    sys.exit(0)

HOW = behaviour(sys.argv[2] if len(sys.argv) > 2 else "/model")
REASONING = option("reasoning-parser", None)
AUTO_TOOLS = "--enable-auto-tool-choice" in sys.argv
COUNTS = {"asked": 0, "active": 0}
LOCK = threading.Lock()
LENGTH = int(option("max-model-len", "4029"))


def prompt_tokens(request):
    """A token for each word, however long: no tokenizer of OpenAI's does that."""
    if "prompt" in request:
        return len(request["prompt"].split())
    return sum(3 + len(str(each.get("content") or "").split()) for each in request["messages"])


def metrics():
    """What Prometheus asks of vLLM, as far as the fleet's rules and dashboard read it."""
    kinds = {
        "vllm:kv_cache_usage_perc": ("gauge", HOW.get("kv_cache", 0.25)),
        "vllm:num_preemptions_total": ("counter", 0),
        "vllm:request_success_total": ("counter", COUNTS["asked"]),
    }
    lines = []
    for name, (kind, value) in kinds.items():
        lines += [f"# TYPE {name} {kind}", f'{name}{{model_name="/model"}} {value}']
    return "\n".join([*lines, ""]).encode()


def complete(request):
    """The message for a chat request, or (status, error)."""
    if "chat_template_kwargs" in request and HOW.get("strict"):
        return 400, "Unrecognized request argument supplied: chat_template_kwargs"
    messages = request["messages"]
    if request.get("tools"):
        if not AUTO_TOOLS:
            return 400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        if messages[-1]["role"] == "tool":
            result = json.loads(messages[-1]["content"])
            said = "Nevím." if HOW.get("tool") == "ignored" else f"V Brně je {result['temperature_celsius']} stupňů."
            return 200, {"role": "assistant", "content": said}
        if HOW.get("tool") == "text":
            return 200, {"role": "assistant", "content": "<tool_call><function=current_temperature>"}
        arguments = "{" if HOW.get("tool") == "broken" else '{"city": "Brno"}'
        call = {"id": "call-1", "type": "function", "function": {"name": "current_temperature", "arguments": arguments}}
        return 200, {"role": "assistant", "content": None, "tool_calls": [call]}
    if (request.get("chat_template_kwargs") or {}).get("enable_thinking", True) and not HOW.get("strict"):
        if REASONING is None or HOW.get("reasoning") == "left":
            return 200, {"role": "assistant", "content": "<think>3 krát 60</think>180"}
        if HOW.get("reasoning") == "endless":
            return 200, {"role": "assistant", "content": None, "reasoning": "Hmm. " * 50}
        return 200, {"role": "assistant", "content": "180", "reasoning": "3 krát 60 je 180."}
    said = HOW.get("answer", "2+2 je 4.")
    if HOW.get("unequal"):
        said += f" ({COUNTS['asked']})"
    return 200, {"role": "assistant", "content": said}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self, document, status=200):
        self.plain(json.dumps(document).encode() if document is not None else b"", "application/json", status)

    def plain(self, data, kind, status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/health" and not HOW.get("strict"):
            self.answer(None, 503 if HOW.get("unhealthy") else 200)
        elif self.path == "/version" and not HOW.get("strict"):
            self.answer({"version": "0.20.0"})
        elif self.path == "/metrics" and not HOW.get("strict"):
            self.plain(metrics(), "text/plain; version=0.0.4; charset=utf-8")
        elif self.path == "/v1/models":
            self.answer({"object": "list", "data": [{"id": sys.argv[2], "object": "model"}]})
        else:
            self.answer({"detail": "Not Found"}, 404)

    def refuse(self, status, message, kind="BadRequestError"):
        self.answer({"error": {"message": message, "type": kind, "param": None, "code": status}}, status)

    def do_POST(self):
        try:
            request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        except ValueError:
            return self.refuse(400, "JSON decode error", "Bad Request")
        if os.environ.get("STANDIN_KEY") and self.headers["Authorization"] != f"Bearer {os.environ['STANDIN_KEY']}":
            return self.answer({"error": "unauthorized"}, 401)
        if self.path == "/tokenize" and not HOW.get("strict"):
            count = prompt_tokens(request)
            return self.answer({"count": count, "max_model_len": LENGTH, "tokens": [7] * count})
        if "messages" not in request:
            return self.refuse(400, "Field required: messages", "Bad Request")
        if request.get("model", sys.argv[2]) != sys.argv[2]:
            return self.refuse(404, f"The model `{request['model']}` does not exist.", "NotFoundError")
        with LOCK:
            COUNTS["asked"] += 1
            COUNTS["active"] += 1
        # Long enough for requests that are sent together to be here together.
        time.sleep(0.3)
        with LOCK:
            together = COUNTS["active"]
            if HOW.get("at_four") == "dies" and together >= 4:
                os._exit(1)
        status, message = complete(request)
        if HOW.get("at_four") == "oom" and together >= 4:
            say("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
            status, message = 500, "EngineCore encountered an issue."
        with LOCK:
            COUNTS["active"] -= 1
        if status != 200:
            return self.refuse(status, message)
        reason = "length" if message.get("content") is None and "tool_calls" not in message else "stop"
        return self.answer(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": sys.argv[2],
                "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            }
        )

    def log_message(self, *arguments):
        pass


def stop(*_):
    print("saw SIGTERM", flush=True)
    os._exit(0)


print("argv: " + json.dumps(sys.argv[1:]), flush=True)
print(f"pid: {os.getpid()}", flush=True)
signal.signal(signal.SIGTERM, stop)
if "--exit" in sys.argv:
    sys.exit(0)
if HOW.get("writes"):
    # What vLLM and its compilers write to: the caches below HOME, and temporary files.
    for folder in (
        Path("~/.cache/vllm").expanduser(),
        Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]),
        Path("/tmp/standin"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        print(f"wrote {folder} as {os.getuid()}", flush=True)
    try:
        Path("/opt/builder/x").mkdir()
    except OSError as error:
        print(f"root: {error.strerror}", flush=True)
say("Initializing a V1 LLM engine (v0.20.0) with config: model='/model'")
say("Starting to load model /model...")
if HOW.get("skips"):
    say("Parameter model.embed_tokens.weight_scale_inv not found in params_dict, skip loading")
if "exits" in HOW:
    # As a start fails in three processes: the first says why, the others that another one has failed.
    for process, place, said in (
        ("Worker", "model_executor/models/utils.py", "ValueError: something is wrong with this model"),
        (
            "EngineCore",
            "v1/executor/multiproc_executor.py",
            "Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause.",
        ),
        (
            "APIServer",
            "v1/engine/utils.py",
            "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
        ),
    ):
        lines = (
            "Traceback (most recent call last):",
            f'  File "/usr/local/lib/python3.11/dist-packages/vllm/{HOW.get("raised", place)}", line 339, in f',
            "    raise error",
            said,
        )
        for line in lines:
            print(f"({process} pid={os.getpid()}) {line}", flush=True)
    sys.exit(HOW["exits"])
say(f"Model loading took {HOW.get('loaded', '26.19')} GiB memory and 12.345678 seconds")
if not HOW.get("unpatched"):
    say("TQ hybrid: full-attention layers [3, 7, 11]")
say("Available KV cache memory: 1.68 GiB")
say(f"GPU KV cache size: {HOW.get('tokens', '16,640')} tokens")
say(f"Maximum concurrency for 4,029 tokens per request: {HOW.get('concurrency', '7.00')}x")
say("Application startup complete.")
ThreadingHTTPServer(("0.0.0.0", int(option("port", "8000"))), Handler).serve_forever()
