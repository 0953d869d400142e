"""Acceptance: 2,000 rows at 64 connections beside plain httpx, and the verdict from that many samples."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.measure import Row, Used

ROWS = 2_000
CONNECTIONS = 64

# A server that costs next to nothing, so that what is measured is the client.
_SERVER = """
import asyncio, json, sys
answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "tiny",
          "choices": [{"index": 0, "message": {"role": "assistant", "content": '{"legal": true}'}, "finish_reason": "stop"}],
          "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}}
bodies = {"/v1/models": {"data": [{"id": "tiny", "max_model_len": 4096}]}, "/version": {"version": "0.20.0"}}
async def serve(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\\r\\n\\r\\n")).decode("latin-1")
            size = [int(line.split(":")[1]) for line in head.split("\\r\\n") if line.lower().startswith("content-length:")]
            if size:
                await reader.readexactly(size[0])
            body = json.dumps(bodies.get(head.split()[1], answer)).encode()
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
_PLAIN = """
import asyncio, httpx, sys, time
url, rows, connections = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
async def main():
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=connections), timeout=60) as client:
        free = asyncio.Semaphore(connections)
        async def one(number):
            async with free:
                body = {"model": "tiny", "messages": [{"role": "user", "content": f"ask r{number}"}], "max_tokens": 64}
                (await client.post(f"{url}/v1/chat/completions", json=body)).json()
        begun, used = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one(number) for number in range(rows)))
        print(time.perf_counter() - begun, time.process_time() - used)
asyncio.run(main())
"""


def acceptance() -> list[Row]:
    """Asking and logging in one process each, one after the other, at the same server; then the verdict alone."""
    from builder.gate import engine
    from builder.gate.assemble import write_run
    from builder.gate.run import About, Wanted, run_suite
    from builder.gate.target import Target
    from builder.util.context import Context
    from tests.support.suites import row, write_suite

    server = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        plain = subprocess.run(
            [sys.executable, "-c", _PLAIN, url, str(ROWS), str(CONNECTIONS)], capture_output=True, text=True, check=True
        )
        bare, bare_cpu = map(float, plain.stdout.split())
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            rows = [row(f"r{number}", legal=number % 3 > 0) for number in range(ROWS)]
            limits = {"attempt_seconds": 300, "tries": 3, "connections": CONNECTIONS}
            small, suite = write_suite(root, rows[:1], name="warm"), write_suite(root, rows, limits=limits)
            context, wanted = Context(), Wanted(root / "out")
            target = Target("target", url, key=None, context=context)
            # Imports are paid once, and not for each row.
            run_suite(small, target, None, About(), wanted, context=context)
            begun, used = time.perf_counter(), time.process_time()
            found = run_suite(suite, target, None, About(), wanted, context=context)
            ours, ours_cpu = time.perf_counter() - begun, time.process_time() - used
            begun, used = time.perf_counter(), time.process_time()
            assert len(engine.read_replies(wanted.output / "small.run/logs")) == ROWS
            read = time.perf_counter() - begun
            begun = time.perf_counter()
            written = write_run(found, wanted.output, redact=False)
            verdict, verdict_cpu = time.perf_counter() - begun, time.process_time() - used
            size = written.json.stat().st_size
            assert json.loads(written.json.read_bytes())["predicate"]["result"] == "PASSED"
    finally:
        server.terminate()
        server.wait(10)
    return [
        Row(
            f"gate, {ROWS:,} rows, {CONNECTIONS} connections",
            {"builder gate, in one process": [Used(ours, ours_cpu)], "plain httpx": [Used(bare, bare_cpu)]},
        ),
        Row(
            f"verdict from {ROWS:,} samples",
            {"log read, verdict written": [Used(read + verdict, verdict_cpu)]},
            f"{size:,} bytes",
        ),
    ]
