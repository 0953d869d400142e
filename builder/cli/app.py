"""The command line: which commands there are, the options that all share, and how an error ends a run.

Commands are imported only when they are called or asked for help, so that `builder --help` takes no longer than click.
"""

from __future__ import annotations

import functools
import gc
import importlib
import io
import os
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from builder import __version__
from builder.cli.console import Console, OutputError
from builder.cli.examples import EXAMPLES
from builder.cli.signals import end_on_signals, interrupted_code, was_interrupted
from builder.cli.system_errors import mended_error
from builder.util.context import Context
from builder.util.errors import EXIT_BUG, EXIT_INPUT, BuilderError
from builder.util.redact import without_secrets

_TOKENS = (
    "GITHUB_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "BUILDER_API_KEY",
    "BUILDER_REFERENCE_API_KEY",
    "BUILDER_KEY_PASSWORD",
    "SIGSTORE_ID_TOKEN",
)

# Name -> (module with an attribute `command`, one line of help). In the order in which a user meets them.
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("builder.cli.commands.init", "Begin a recipe: name pull requests, and the files are written."),
    "list": ("builder.cli.commands.list", "List the recipes here, their locks and their images."),
    "doctor": ("builder.cli.commands.doctor", "Look for what builds, runs and publication need."),
    "lock": ("builder.cli.commands.lock", "Resolve a recipe and pin everything that a build needs."),
    "check": (
        "builder.cli.commands.check",
        "Apply the overlays to the base's real files and lint the profiles; build nothing.",
    ),
    "render": ("builder.cli.commands.render", "Write a Docker context that plain `docker build` builds."),
    "build": ("builder.cli.commands.build", "Make the image."),
    "publish": ("builder.cli.commands.publish", "Build the image and push what the registry lacks."),
    "attest": ("builder.cli.commands.attest", "Attach a statement to a published image, signed or not."),
    "promote": ("builder.cli.commands.promote", "Move a tag to an image that meets a policy."),
    "verify": ("builder.cli.commands.verify", "Derive an image again from its lock, and compare every byte."),
    "mirror": ("builder.cli.commands.mirror", "Keep a copy of the locked base in another repository."),
    "run": ("builder.cli.commands.run", "Run the image with a profile."),
    "smoke": ("builder.cli.commands.smoke", "Start the image, or take a running server, and check it."),
    "gate": ("builder.cli.commands.gate", "Run suites of rows against an image or a server; write verdicts."),
    "verdict": ("builder.cli.commands.verdict", "Show verdicts, and write them as decision records."),
    "deploy": ("builder.cli.commands.deploy", "Render Compose or Kubernetes files for a published image."),
    "profile": ("builder.cli.commands.profile", "List, show, check and size serving profiles."),
    "drift": ("builder.cli.commands.drift", "Compare the lock with upstream: what moved, and why."),
    "rebase": ("builder.cli.commands.rebase", "What the stack needs on another base."),
    "stack": ("builder.cli.commands.stack", "Hand the stack over as quilt series or mails, or take a series in."),
    "checkpoint": ("builder.cli.commands.checkpoint", "Digest, quantize and check checkpoints."),
    "schema": (
        "builder.cli.commands.schema",
        "Print the JSON Schema of recipes, profiles, gates, policies or records.",
    ),
    "completion": ("builder.cli.commands.completion", "Print a shell's completion script."),
    "help": ("builder.cli.commands.help", "Show the help of a command."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def __init__(self, *args: Any, table: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in self.table:
            return None
        command = importlib.import_module(self.table[cmd_name][0]).command
        assert isinstance(command, click.Command)  # noqa: S101
        _with_examples(command, cmd_name if self is cli else f"{self.name} {cmd_name}")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], self.table, n=1)
            if near:
                raise click.UsageError(f"{error.message} Did you mean '{near[0]}'?", ctx) from error
            raise


def _with_examples(command: click.Command, name: str) -> None:
    """Put the examples of `builder NAME` behind its help, and those of a plain group's commands behind theirs."""
    if name in EXAMPLES:
        command.epilog = "\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in EXAMPLES[name])])
    if isinstance(command, click.Group) and not isinstance(command, LazyGroup):
        for inner, found in command.commands.items():
            _with_examples(found, f"{name} {inner}")


F = TypeVar("F", bound=Callable[..., Any])


def common_options(function: F) -> F:
    """The options of every command: `--json`, `-q`, `-v`. The command gets one `console` argument in their place."""

    def fill(ctx: click.Context, _param: click.Parameter, _value: object) -> Console:
        console = ctx.find_root().ensure_object(Console)
        assert isinstance(console, Console)  # noqa: S101
        return console

    def remember(attribute: str) -> Callable[[click.Context, click.Parameter, Any], None]:
        def callback(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
            console = ctx.find_root().ensure_object(Console)
            if attribute == "json_mode":
                console.json_mode = console.json_mode or bool(value)
            elif attribute == "quiet" and value:
                console.verbosity = -1
            elif attribute == "verbose" and value:
                console.verbosity = int(value)

        return callback

    @functools.wraps(function)
    def called(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except BuilderError as error:
            error.hint = _for_recipe(error.hint, options)
            raise
        except BrokenPipeError as error:
            # Click takes it for a reader that went away, and ends silently. The console has dealt with those.
            raise RuntimeError("a pipe or a connection was closed by its other end") from error

    wrapped: Any = called
    # `console` is filled by a hidden option, so that commands stay plain functions with typed arguments.
    wrapped = click.option("--console", hidden=True, callback=fill)(wrapped)
    wrapped = click.option(
        "-v", "--verbose", count=True, expose_value=False, callback=remember("verbose"), help="Say more."
    )(wrapped)
    wrapped = click.option(
        "-q", "--quiet", is_flag=True, expose_value=False, callback=remember("quiet"), help="Only warnings and errors."
    )(wrapped)
    wrapped = click.option(
        "--json", is_flag=True, expose_value=False, is_eager=True, callback=remember("json_mode"),
        help="Print one JSON document on standard output.",
    )(wrapped)  # fmt: skip
    result: F = wrapped
    return result


def _for_recipe(hint: str | None, options: dict[str, Any]) -> str | None:
    """The hint with the recipe and the profile that the command was given: rooms below know neither.

    They write `builder lock` alone, or RECIPE and PROFILE in another command.
    """
    recipe = options.get("recipe") or next(iter(options.get("recipes") or ()), None) or options.get("target")
    if hint is None or not isinstance(recipe, str):
        return hint
    if "://" in recipe:
        # A server that somebody else has started: `smoke` and `gate` are pointed at it without a recipe.
        return hint.replace("builder smoke RECIPE PROFILE", f"builder smoke {shlex.quote(recipe)}")
    known = {"RECIPE": recipe, "PROFILE": options.get("profile")}
    hint = hint.replace("`builder lock`", f"`builder lock {shlex.quote(recipe)}`")
    for word, name in known.items():
        if isinstance(name, str):
            own = shlex.quote(name).replace("\\", r"\\")
            hint = re.sub(rf"(\bbuilder [^`\n]*?)\b{word}\b", rf"\g<1>{own}", hint)
    return hint


def offline_option(function: F) -> F:
    """`--offline`, for commands that may ask a server. The command gets it inside its `context`."""

    def fill(ctx: click.Context, _param: click.Parameter, value: bool) -> Context:
        return Context(ctx.find_root().ensure_object(Console), offline=value)

    result: F = click.option(
        "--offline", "context", is_flag=True, callback=fill, help="Use the vendored diffs and the cache only."
    )(function)
    return result


def trust_config_option(function: F) -> F:
    """`--trust-config`, for commands that sign or check signatures."""
    result: F = click.option(
        "--trust-config", type=click.Path(path_type=Path), metavar="FILE",
        help="Services and keys of your own Sigstore, for keyless signatures. Default: the public ones.",
    )(function)  # fmt: skip
    return result


def signer_options(function: F) -> F:
    """`--signer` and `--trust-config`, for commands that say whose signatures count."""
    result: F = click.option(
        "--signer", "signers", multiple=True, metavar="FILE|IDENTITY,ISSUER",
        help="Whose signature counts: the file of a public key, or an identity and who vouches for it.",
    )(trust_config_option(function))  # fmt: skip
    return result


def key_options(function: F) -> F:
    """`--key` and `--keyless`: what signs."""
    wrapped: Any = click.option("--keyless", is_flag=True, help="Sign as your identity, with Sigstore's services.")(
        function
    )
    result: F = click.option(
        "--key", type=click.Path(path_type=Path), metavar="FILE",
        help="Sign with a private key in PEM (PKCS#8); BUILDER_KEY_PASSWORD opens an encrypted one.",
    )(wrapped)  # fmt: skip
    return result


def signing_options(function: F) -> F:
    """`--key`, `--keyless` and `--trust-config`, for commands that sign."""
    return key_options(trust_config_option(function))


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="builder")
def cli() -> None:
    """Builds vLLM images with pull requests applied, reproducible to the digest.

    Begin with `builder init NAME --pull NUMBER`, or look at `builder check demo`. RECIPE is a name under images/ or a path.
    """


def shown(text: str) -> str:
    """The text as it may be printed: a message of some library may quote an address with its password, or a token."""
    return without_secrets(text, *(os.environ.get(name, "").strip() for name in _TOKENS))


def _report_bug(error: BaseException) -> Path:
    """Write what is worth pasting into an issue, without the environment (it may hold tokens)."""
    import platform

    text = shown("".join(traceback.format_exception(error)))
    handle, name = tempfile.mkstemp(prefix="builder-bug-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(f"builder {__version__}, Python {platform.python_version()}, {platform.platform()}\n")
        stream.write(f"arguments: {shown(str(sys.argv[1:]))}\n\n{text}")
    return Path(name)


def _bug(console: Console, error: Exception) -> int:
    console.tell(shown("".join(traceback.format_exception(error))).rstrip("\n"))
    report = _report_bug(error)
    console.say(f"error: this is a bug in builder\n  next  open an issue and paste {report}")
    _report(console, {"kind": "Bug", "message": shown(repr(error)), "exit_code": EXIT_BUG, "report": str(report)})
    return EXIT_BUG


def _interrupted(console: Console) -> int:
    code = interrupted_code()
    console.say("interrupted; nothing is left half done")
    _report(console, {"kind": "Interrupted", "message": "interrupted", "exit_code": code})
    return code


def _report(console: Console, error: dict[str, Any]) -> None:
    """Print the document of an error with `--json`. Where it cannot be written, the exit code tells."""
    with suppress(OutputError):
        console.document({"error": error})


def _invoke(arguments: list[str] | None, console: Console) -> object:
    """Run the command line. Raises `KeyboardInterrupt` for every error after a signal."""
    try:
        # Without standalone mode click hands the code of `Exit` back instead of raising it.
        return cli.main(args=arguments, prog_name="builder", standalone_mode=False, obj=console)
    except Exception:
        if was_interrupted():
            raise KeyboardInterrupt from None
        raise


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    stdout = sys.stdout
    given = sys.argv[1:] if arguments is None else arguments
    # Known before click parses anything, so that a wrong command line ends in a document too.
    console = Console(json_mode="--json" in given[: given.index("--")] if "--" in given else "--json" in given)
    try:
        code = _invoke(arguments, console)
    except click.exceptions.Exit as done:
        return done.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _interrupted(console)
    except click.ClickException as error:
        with suppress(OSError):
            error.show(file=console.stderr)
        _report(console, {"kind": "UsageError", "message": error.format_message(), "exit_code": EXIT_INPUT})
        return EXIT_INPUT
    except SystemExit:
        # When the reader of a help text went away (`builder --help | head`), click puts a silent stream in the place of
        # standard output and ends with 1, which means a bug here.
        if sys.stdout is not stdout:
            return 0
        raise
    except BuilderError as error:
        console.error(error)
        return error.exit_code
    except OSError as error:
        mended = mended_error(error)
        if mended is None:
            return _bug(console, error)
        console.error(mended)
        return mended.exit_code
    except Exception as error:  # noqa: BLE001  the last line of defence
        return _bug(console, error)
    return code if isinstance(code, int) else 0


def _open_streams() -> None:
    """Give a process whose caller closed standard input, output or error (`>&-`) ones that lead nowhere.

    Without them the next file that is opened gets their number, and a child's output is written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # As on standard error: a character that the encoding lacks is printed as its escape, and ends no command.
        sys.stdout.reconfigure(errors="backslashreplace")


def _have_home() -> None:
    """Give a user without a home the root folder for one, as Docker does: `docker run --user 12345` has no other."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"


def main() -> None:
    """Entry point of the console script."""
    _open_streams()
    _have_home()
    end_on_signals()
    # pydantic looks for plugins in every installed distribution, and what another package plugs in has no business here.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # What modules and models are made of is never garbage. Looking through it takes a tenth of a short command's time.
    gc.set_threshold(200_000, 10, 10)
    if sys.getfilesystemencoding() != "utf-8":
        # Paths in diffs are UTF-8 whatever the locale says; begin again in Python's UTF-8 mode.
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
    code = run()
    # At its end Python looks through every object for cycles to clear. The system takes them all back a moment later anyway;
    # what has a right to run at the end (atexit, finalizers) still does.
    gc.freeze()
    sys.exit(code)
