"""What vLLM's start-up log says: figures, the phase that the start is in, and lines after which nothing can be trusted.

The texts are those of the wheels of vLLM 0.19.0, 0.20.0, 0.21.0, 0.25.0 and 0.33.0, and of the logs that the CPU builds of
0.20.0 and 0.32.0 write. They are searched in the line, since a prefix (`(EngineCore pid=123) INFO 04-29 09:53:04
[gpu_worker.py:441]`) and colour codes may be around them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from builder.serve.root_cause import RootCause, RootCauseFinder

# CSI sequences (colours, cursor) and the two-character escapes; OSC ends in BEL or ST.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_NUMBER = r"(\d[\d,]*(?:\.\d+)?)"
_LONGEST = 4000

PHASES = ("starting", "loading weights", "compiling", "sizing the KV cache", "capturing graphs", "ready")

# A text that is seen once its phase has begun. vLLM may leave phases out (eager mode captures nothing).
_PHASE_MARKS = (
    ("Starting to load model", "loading weights"),
    ("Loading safetensors checkpoint shards", "loading weights"),
    ("Model loading took", "compiling"),
    ("Warming up model for the compilation", "compiling"),
    ("Available KV cache memory", "sizing the KV cache"),
    ("GiB for KV cache on node", "sizing the KV cache"),
    ("KV cache size", "sizing the KV cache"),
    ("Capturing CUDA graphs", "capturing graphs"),
    ("Graph capturing finished", "capturing graphs"),
    ("Application startup complete", "ready"),
)

# A text, and what it means. vLLM goes on after some of them and answers nonsense, or dies at the next request.
FATAL: tuple[tuple[str, str], ...] = (
    ("skip loading", "a tensor of the checkpoint was left out: the server would start and talk nonsense"),
    ("TurboQuant KV cache is not supported for hybrid", "the image lacks the overlay for hybrid TurboQuant"),
    ("CUDA out of memory", "the GPU's memory is too small for this profile, or something else uses it"),
    ("OutOfMemoryError", "the GPU's memory is too small for this profile, or something else uses it"),
    ("is less than desired GPU memory utilization", "something else uses the GPU: gpu-memory-utilization is above what is free"),
    ("No available memory for the cache blocks", "weights and activations leave nothing for the KV cache"),
    ("Engine core initialization failed", "the engine did not start; the lines above say why"),
    ("EngineCore encountered a fatal error", "the engine died; the lines above say why"),
    ("EngineDeadError", "the engine died; the lines above say why"),
    ("died unexpectedly", "a worker of the engine died"),
)  # fmt: skip

_SHARDS = re.compile(r"(\d+)% Completed \| (\d+)/(\d+)")


@dataclass(frozen=True)
class FatalLine:
    """A line after which the server cannot be trusted, and what it means."""

    line: str
    meaning: str


@dataclass
class StartupLog:
    """A log that is read line by line. Sizes in GiB, times in seconds; None for what was not printed.

    `lines` is how many were read. Several workers print the same figures: the largest load and the smallest cache count.
    """

    vllm: str | None = None
    loaded_gib: float | None = None
    load_seconds: float | None = None
    available_kv_gib: float | None = None
    kv_cache_tokens: int | None = None
    max_concurrency: float | None = None
    tokens_per_request: int | None = None
    graphs_gib: float | None = None
    phase: str = PHASES[0]
    shards: tuple[int, int] | None = None
    fatal: list[FatalLine] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)
    watched: tuple[str, ...] = ()
    lines: int = 0
    _causes: RootCauseFinder = field(default_factory=RootCauseFinder, repr=False)

    def feed(self, text: str) -> None:
        """Take a line, or a chunk with progress that was drawn over itself."""
        for chunk in text.splitlines():
            line = _ESCAPES.sub("", chunk[:_LONGEST])
            self._causes.feed(line)
            if line := line.strip():
                self.lines += 1
                self._line(line)

    def root_cause(self) -> RootCause | None:
        """The first exception that is not the consequence of another one, None when none was printed."""
        return self._causes.cause()

    def figures(self) -> dict[str, float | int | str]:
        """What was printed, by name."""
        names = (
            "vllm", "loaded_gib", "load_seconds", "available_kv_gib", "kv_cache_tokens", "max_concurrency",
            "tokens_per_request", "graphs_gib",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _line(self, line: str) -> None:
        for pattern, take in _FIGURES:
            if match := pattern.search(line):
                take(self, match)
        for mark, phase in _PHASE_MARKS:
            if mark in line and PHASES.index(phase) > PHASES.index(self.phase):
                self.phase = phase
        if match := _SHARDS.search(line):
            self.shards = (int(match[2]), int(match[3]))
        for text in self.watched:
            if text in line:
                self.seen.setdefault(text, line)
        for text, meaning in FATAL:
            if text in line:
                self.fatal.append(FatalLine(line, meaning))
                break


def read_startup_log(lines: Iterable[str], *, watched: Iterable[str] = ()) -> StartupLog:
    """Read a whole log; `watched` are texts whose first line is wanted in `seen`."""
    log = StartupLog(watched=tuple(watched))
    for line in lines:
        log.feed(line)
    return log


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _largest(name: str, group: int = 1) -> Callable[[StartupLog, re.Match[str]], None]:
    def take(log: StartupLog, match: re.Match[str]) -> None:
        found, known = _number(match[group]), getattr(log, name)
        setattr(log, name, found if known is None else max(found, known))

    return take


def _smallest(name: str, *, whole: bool = False) -> Callable[[StartupLog, re.Match[str]], None]:
    def take(log: StartupLog, match: re.Match[str]) -> None:
        found, known = _number(match[1]), getattr(log, name)
        smallest = found if known is None else min(found, known)
        setattr(log, name, int(smallest) if whole else smallest)

    return take


def _version(log: StartupLog, match: re.Match[str]) -> None:
    log.vllm = log.vllm or match[1]


_FIGURES: tuple[tuple[re.Pattern[str], Callable[[StartupLog, re.Match[str]], None]], ...] = (
    (re.compile(r"(?:LLM engine \(v|(?:API )?server version )(\d+\.\d+[^\s,)]*)"), _version),
    # The word "memory" is missing in one of the two model runners.
    (re.compile(rf"Model loading took {_NUMBER} GiB"), _largest("loaded_gib")),
    (re.compile(rf"Model loading took {_NUMBER} GiB(?: memory)? and {_NUMBER} seconds"), _largest("load_seconds", 2)),
    (re.compile(rf"Available KV cache memory: {_NUMBER} GiB"), _smallest("available_kv_gib")),
    # The CPU build: what was asked for, of what the machine has.
    (re.compile(rf"Explicitly set \({_NUMBER}/[\d.]+\) GiB for KV cache"), _smallest("available_kv_gib")),
    (re.compile(rf"KV cache size: {_NUMBER} tokens"), _smallest("kv_cache_tokens", whole=True)),
    (re.compile(rf"Maximum concurrency for [\d,]+ tokens per request: {_NUMBER}x"), _smallest("max_concurrency")),
    (re.compile(rf"Maximum concurrency for {_NUMBER} tokens per request"), _smallest("tokens_per_request", whole=True)),
    (re.compile(rf"Graph capturing finished in {_NUMBER} secs?, took {_NUMBER} GiB"), _largest("graphs_gib", 2)),
)
