#!/usr/bin/env python3
"""A stand-in for the `vllm` program: takes any flags, prints vLLM's start-up lines, and serves the OpenAI routes.

It is made to behave like vLLM 0.20.0 at its edges only (flags, log lines, routes, signals), for tests of what starts it.
"""

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


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


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, document, status=200):
        data = json.dumps(document).encode() if document is not None else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/health":
            self.answer(None)
        elif self.path == "/v1/models":
            self.answer({"object": "list", "data": [{"id": sys.argv[2], "object": "model"}]})
        else:
            self.answer({"error": "not found"}, 404)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        message = {"role": "assistant", "content": "2+2 je 4."}
        self.answer(
            {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
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
say("Model loading took 26.19 GiB memory and 12.345678 seconds")
say("TQ hybrid: full-attention layers [3, 7, 11]")
say("Available KV cache memory: 1.68 GiB")
say("GPU KV cache size: 16,640 tokens")
say("Maximum concurrency for 4,029 tokens per request: 7.00x")
say("Application startup complete.")
ThreadingHTTPServer(("0.0.0.0", int(option("port", "8000"))), Handler).serve_forever()
