"""Why a start failed: the first exception in vLLM's log that is not the consequence of another one.

vLLM starts several processes, and the one that fails last only says that another one failed. Each process prints its own
traceback, behind a prefix of its own; the tracebacks of different processes can be interleaved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_PROCESS = re.compile(r"^\(([^()]*)\)\s?")
_HEAD = re.compile(r"^(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\]\s?")
_FRAME = re.compile(r'^\s*File "([^"]+)", line (\d+), in (.+)$')
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Found|Failure)?(?:: |$)")
_PARSER = re.compile(
    r"^(?:usage: )?\S*vllm(?: serve)?: error: (.+)$|^\S+: error: ((?:argument|unrecognized|the following) .+)$"
)
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
# Above a package: its folder of packages, or, for vLLM from elsewhere, whatever is above `vllm/`.
_ABOVE = re.compile(r"^(?:.*/(?:site|dist)-packages/|.*?/(?=vllm/))")
_LONGEST = 600
_MORE_LINES = 3

# Exceptions that only say that another process, or another exception, has failed.
_CONSEQUENCES = (
    "Engine core initialization failed", "WorkerProc initialization failed", "See stack trace for root cause",
    "See root cause above", "EngineDeadError", "died unexpectedly", "Error raised in subprocess", "CalledProcessError",
    "failed to be inspected", "CancelledError", "SystemExit", "KeyboardInterrupt", "BrokenPipeError", "EOFError",
)  # fmt: skip

# (kind, texts, what it means and what it points to). The first row that fits counts.
_KINDS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "hybrid refusal", ("not supported for hybrid",),
        "the profile's kv-cache-dtype needs the overlay for hybrid TurboQuant (vllm-project/vllm#39931), which the image lacks",
    ),
    (
        "wrong dtype", ("FP8 tables that the checkpoint does not have", "Unexpected dtype", "expected scalar type", "dtype mismatch", "is not supported for quantization method", "same dtype"),
        "the checkpoint's tensors are not of the type that the image's overlays, or the profile's dtype and quantization, ask for",
    ),
    (
        "wrong checkpoint", ("FP8 vocabulary tables", "weight_scale_inv is (", "no weight_scale_inv for this table", "size mismatch", "The size of tensor", "shape mismatch"),
        "the checkpoint's config or scales are not what the overlay for FP8 tables takes: `builder checkpoint check DIR` says what is wrong",
    ),
    (
        "missing parameter", ("There is no module or parameter named", "not initialized from checkpoint", "weight_scale"),
        "the checkpoint has tensors that this vLLM does not know, or lacks some: the image lacks the overlay that loads them",
    ),
    (
        "no compiler", ("Failed to find C compiler", "InvalidCxxCompiler", "No working C++ compiler", "'gcc'", "'g++'", "'nvcc'", "CUDA_HOME"),
        "something is compiled at the start and the image has no compiler: the profile's enforce-eager, or TORCHDYNAMO_DISABLE=1, avoids it",
    ),
    (
        "no GPU", ("Found no NVIDIA driver", "No CUDA GPUs are available", "Failed to infer device type", "libcuda.so", "CUDA driver version is insufficient", "NVML"),
        "the container sees no GPU: docker run --gpus all, with the NVIDIA container toolkit",
    ),
    (
        "out of memory", ("out of memory", "OutOfMemoryError", "No available memory for the cache blocks", "less than desired GPU memory utilization", "larger than the available KV cache memory", "Cannot allocate memory"),
        "the profile's gpu-memory-utilization, max-model-len or max-num-batched-tokens does not fit this machine",
    ),
    (
        "missing module", ("ModuleNotFoundError", "ImportError", "cannot open shared object file"),
        "the base image lacks a package or library, or has another release of it",
    ),
    (
        "wrong flag", ("unrecognized arguments", "invalid choice", "argument --", "ValidationError", "validation error"),
        "a key of the profile, or a flag of the caller, is not one that this vLLM takes: `builder profile lint PROFILE` says which",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class RootCause:
    """`error` is the exception's last line; `where` is `FILE:LINE in FUNCTION`, from the package's folder, or empty.

    `kind` is one of a few words ("out of memory"), `points_to` the overlay, profile key or checkpoint to look at; both are
    empty for an exception that nothing is known about.
    """

    error: str
    where: str = ""
    kind: str = ""
    points_to: str = ""

    @property
    def path(self) -> str:
        """The file that raised it, from the package's folder."""
        return self.where.partition(":")[0]


@dataclass
class _Traceback:
    frame: str = ""
    error: str = ""
    more: int = 0


@dataclass
class RootCauseFinder:
    """Reads a log line by line. Lines have no colours."""

    _open: dict[str, _Traceback] = field(default_factory=dict)
    _found: list[_Traceback] = field(default_factory=list)
    _chained: dict[str, _Traceback] = field(default_factory=dict)
    _said: RootCause | None = None

    def feed(self, line: str) -> None:
        process = _PROCESS.match(line)
        name, text = (process[1], line[process.end() :]) if process else ("", line)
        text = _HEAD.sub("", text, count=1).rstrip()
        if text.startswith("Traceback (most recent call last)"):
            before = self._chained.pop(name, None)
            if before is not None and before in self._found:
                # What is raised in the end is the last of a chain.
                self._found.remove(before)
            self._open[name] = _Traceback()
            return
        if text.startswith(_CHAINED):
            last = self._open.get(name)
            if last is not None:
                self._chained[name] = last
            return
        if (refused := _PARSER.match(text)) and self._said is None:
            self._said = _judged(refused[1] or refused[2], "")
        self._inside(name, text)

    def _inside(self, name: str, text: str) -> None:
        """A line within, or right behind, the traceback of a process."""
        current = self._open.get(name)
        if current is None:
            return
        if current.error:
            # Errors of pydantic and of torch go on for a few indented lines.
            if text.startswith("  ") and current.more < _MORE_LINES:
                current.error, current.more = f"{current.error} {text.strip()}"[:_LONGEST], current.more + 1
            elif text:
                current.more = _MORE_LINES
            return
        if frame := _FRAME.match(text):
            current.frame = f"{_ABOVE.sub('', frame[1], count=1)}:{frame[2]} in {frame[3]}"
        elif _EXCEPTION.match(text):
            current.error = text[:_LONGEST]
            self._found.append(current)

    def cause(self) -> RootCause | None:
        """The root cause so far, None when nothing was raised."""
        for each in self._found:
            if not any(text in each.error for text in _CONSEQUENCES):
                return _judged(each.error, each.frame)
        if self._said is not None:
            return self._said
        return _judged(self._found[0].error, self._found[0].frame) if self._found else None


def _judged(error: str, where: str) -> RootCause:
    for kind, texts, points_to in _KINDS:
        if any(text in error for text in texts):
            return RootCause(error, where, kind, points_to)
    return RootCause(error, where)
