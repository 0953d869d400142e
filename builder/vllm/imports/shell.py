"""A command line as people paste it from a model card: `vllm serve ...`, with exports, or inside `docker run`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from builder.util.errors import InputError
from builder.vllm.imports.imported import Imported, profile_name
from builder.vllm.imports.words import take_words

_ASSIGNED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_SERVER_MODULE = "vllm.entrypoints.openai.api_server"
_PROMPT = re.compile(r"^\s*[$>#]\s+(?=\S)")
_REDIRECTED = re.compile(r"(?<=\s)(?:\d|&)?>{1,2}\s*(?:&\d|[^\s;&|'\"]+)")
# Options of `docker run` without a value, as people use them here.
_DOCKER_SWITCHES = frozenset(
    {"--rm", "-d", "--detach", "-it", "-i", "-t", "--privileged", "--init", "--read-only", "-dit"}
)
_LIMIT = 100_000


def from_command(text: str, *, name: str | None = None) -> Imported:
    """The profile in a command line. Raises `InputError` when there is not exactly one `vllm serve` in it."""
    if len(text) > _LIMIT:
        raise InputError("the command is longer than 100,000 characters")
    found = Imported(name or "")
    servers: list[list[str]] = []
    exported: dict[str, str] = {}
    for spelled in _commands(text):
        words, own = _leading(_substituted(spelled, exported))
        if not words:
            exported |= own
        elif words[0] == "export":
            exported |= _leading(words[1:])[1]
        elif (arguments := _server(words, found, own)) is not None:
            servers.append(arguments)
            found.set_variables({**exported, **own}, "variable")
        else:
            found.lose(
                shlex.join(words)[:200], "another command than `vllm serve`: what it does is not part of a profile"
            )
    if len(servers) != 1:
        raise InputError(
            f"the text has {len(servers)} commands that start a server, where one is wanted",
            hint="paste one `vllm serve MODEL --flags`, or one `docker run ... vllm/vllm-openai:TAG --flags`",
        )
    take_words(found, servers[0], first_is_model=True)
    if found.model is not None and "$" in found.model:
        found.lose(f"model {found.model}", "has a shell variable, whose value is not known")
        found.model = None
    found.name = name or profile_name((found.model or "imported").rpartition("/")[2])
    return found


def _commands(text: str) -> Iterator[list[str]]:
    """The words of each command, without redirections and what its output is piped into."""
    joined = _REDIRECTED.sub(" ", re.sub(r"\\[ \t]*\r?\n", " ", text))
    lines = [_PROMPT.sub("", line) for line in joined.splitlines() if not line.lstrip().startswith(("# ", "#!", "```"))]
    lexer = shlex.shlex("\n".join(lines), posix=True, punctuation_chars=";&|\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    piped = False
    try:
        tokens = list(lexer)
    except ValueError as error:
        raise InputError(f"the command cannot be read: {error}", hint="close the quotes") from error
    for each in tokens:
        if each and set(each) <= set(";&|\n"):
            if words:
                yield words
            words = []
            # What reads the server's output is no part of its configuration.
            piped = each == "|"
        elif not piped:
            words.append(each)
    if words:
        yield words


def _substituted(words: Sequence[str], known: dict[str, str]) -> list[str]:
    def value(match: re.Match[str]) -> str:
        return known.get(match[1] or match[2], match[0])

    return [_VARIABLE.sub(value, word) for word in words]


def _leading(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The words without assignments (and `env`) in front of them, and these."""
    rest, own = list(words), {}
    while rest and ((match := _ASSIGNED.fullmatch(rest[0])) is not None or rest[0] in ("env", "sudo")):
        if match is not None:
            own[match[1]] = match[2]
        rest.pop(0)
    return rest, own


def _server(words: Sequence[str], found: Imported, own: dict[str, str]) -> list[str] | None:
    """The arguments of the server that a command starts; None when it starts none."""
    if words[0] in ("docker", "podman", "nerdctl") and "run" in words[1:3]:
        return _in_container(words[words.index("run") + 1 :], found, own)
    for index, word in enumerate(words):
        if word.rpartition("/")[2] == "vllm" and words[index + 1 : index + 2] == ["serve"]:
            return list(words[index + 2 :])
        if word == _SERVER_MODULE:
            return list(words[index + 1 :])
    return None


def _in_container(words: Sequence[str], found: Imported, own: dict[str, str]) -> list[str] | None:
    """The arguments behind the image of a `docker run`. Its options are the container's, not the server's."""
    rest = list(words)
    while rest and rest[0].startswith("-"):
        option, equals, value = rest.pop(0).partition("=")
        if not equals and option not in _DOCKER_SWITCHES and rest and not option.startswith("-it"):
            value = rest.pop(0)
        if option in ("-e", "--env"):
            name, _, text = value.partition("=")
            if _ is not None and text:
                own[name] = text
            else:
                found.lose(
                    f"docker run {option} {value}",
                    "takes its value from the caller's environment; pass it the same way",
                )
        elif option == "--entrypoint":
            found.lose(f"docker run {option} {value}", "the image has its own entrypoint")
        elif option not in (
            "--gpus",
            "--rm",
            "-it",
            "--shm-size",
            "--ipc",
            "-p",
            "--publish",
            "-v",
            "--volume",
            "--name",
        ):
            found.lose(
                f"docker run {option} {value}".rstrip(),
                "an option of the container, which a run or a deployment decides",
            )
    if not rest or "vllm" not in rest[0].lower():
        return None
    found.lose(f"image {rest[0]}", "the recipe's `base:` is the image that is patched")
    inner = rest[1:]
    return _server(inner, found, own) or inner if inner else []
