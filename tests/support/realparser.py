"""The judge of the flags: vLLM's own parser, imported from a release's Python files in a process of its own.

Everything that is not installed here (torch, transformers, triton, compiled parts and so on) is replaced by objects that
take any use; pydantic, argparse and every line of vLLM's own code that makes the parser are real. Prints, as JSON, what
`argparse` then holds, and the names that vLLM's own registries list.

    python realparser.py PACKAGE_FOLDER OUTPUT_FILE [ARGUMENTS_FILE [VALUES_FILE]]

ARGUMENTS_FILE holds a JSON list of argument lists; the output then says for each what the parser complains about.
VALUES_FILE holds lists of a flag, the path of a key in its JSON, and a value; the output says whether pydantic refuses it.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import json
import re
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Replaced although they may be installed: what they would do needs a GPU, or minutes.
REPLACED = {"regex", "scipy", "torch", "transformers", "triton"}
# Modules of the package whose import starts work that needs torch, and that no flag comes from.
REPLACED_MODULES = {"vllm.v1.executor", "vllm.ir"}
# Optional modules whose presence would change what the package does.
ABSENT = {"libtpu", "zentorch", "amdsmi", "tpu_info", "torch_tpu", "chardet", "simplejson", "org", "java", "nt", "msvcrt", "winreg"}  # fmt: skip
ENTRIES = (
    "vllm.entrypoints.openai.cli_args",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.entrypoints.common.cli_args",
)


class _Anything(type):
    """The type of stand-in classes: takes any attribute, subscript and union."""

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any], **_: Any) -> Any:
        return super().__new__(mcs, name, bases, body)

    def __init__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any], **_: Any) -> None:
        super().__init__(name, bases, body)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(name)

    def __or__(cls, other: Any) -> Any:
        return typing.Union[cls, other]  # noqa: UP007

    def __ror__(cls, other: Any) -> Any:
        return typing.Union[other, cls]  # noqa: UP007

    def __getitem__(cls, _: Any) -> Any:
        return cls

    def __iter__(cls) -> Any:
        return iter(())

    def __len__(cls) -> int:
        return 0

    def __contains__(cls, _: Any) -> bool:
        return False

    def __lt__(cls, _: Any) -> bool:
        return False

    def __gt__(cls, _: Any) -> bool:
        return False

    def __le__(cls, _: Any) -> bool:
        return True

    def __ge__(cls, _: Any) -> bool:
        return True


def stand_in(name: str) -> Any:
    """A class that takes any use. Called with a function or class alone, it is a decorator that changes nothing."""

    def new(cls: Any, *args: Any, **kwargs: Any) -> Any:
        alone = len(args) == 1 and not kwargs and cls.__name__ == name
        if alone and isinstance(args[0], types.FunctionType | type) and not isinstance(args[0], _Anything):
            return args[0]
        return object.__new__(cls)

    def get(_: Any, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return stand_in(attribute)

    def call(_: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and isinstance(args[0], types.FunctionType | type):
            return args[0]
        return stand_in("result")()

    def schema(_: Any, __: Any, ___: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.any_schema()

    itself = ("__enter__", "__or__", "__ror__", "__add__", "__radd__", "__mul__", "__rmul__")
    body: dict[str, Any] = {
        "__module__": "stand_in",
        "__new__": new,
        "__init__": lambda self, *args, **kwargs: None,
        "__init_subclass__": classmethod(lambda cls, **kwargs: None),
        "__getattr__": get,
        "__call__": call,
        "__get_pydantic_core_schema__": classmethod(schema),
        "__eq__": lambda self, other: type(self).__name__ == type(other).__name__,
        "__hash__": lambda self: 1,
        "__iter__": lambda self: iter(()),
        "__len__": lambda self: 0,
        "__bool__": lambda self: False,
        "__exit__": lambda self, *args: None,
        "__getitem__": lambda self, key: stand_in("item")(),
        "__int__": lambda self: 0,
        "__index__": lambda self: 0,
        "__float__": lambda self: 0.0,
        "__lt__": lambda self, other: False,
        "__gt__": lambda self, other: False,
        "__le__": lambda self, other: True,
        "__ge__": lambda self, other: True,
        "__contains__": lambda self, item: False,
        **dict.fromkeys(itself, lambda self, *args: self),
    }
    return _Anything(name, (), body)


class _Module(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            return "99.0"
        if name.startswith("__"):
            raise AttributeError(name)
        value = stand_in(name)
        setattr(self, name, value)
        return value


class _Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def spec(self, name: str) -> importlib.machinery.ModuleSpec:
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = _Module(spec.name)
        module.__path__ = []
        if spec.name == "regex":
            module.__dict__.update(re.__dict__)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _Before(_Loader):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if fullname.split(".", maxsplit=1)[0] in REPLACED or fullname in REPLACED_MODULES:
            return self.spec(fullname)
        return None


class _After(_Loader):
    """For what is not installed here, and the package's compiled parts (their names begin with an underscore)."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> Any:
        first, last = fullname.partition(".")[0], fullname.rpartition(".")[2]
        if (first == "vllm" and not last.startswith("_")) or first.startswith("_") or first in ABSENT:
            return None
        return self.spec(fullname)


def _version(name: str, real: Any = importlib.metadata.version) -> str:
    if name == "vllm":
        return "0.0+cpu"
    try:
        return str(real(name))
    except importlib.metadata.PackageNotFoundError:
        if name in ABSENT:
            raise
        return "99.0"


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return str(value)
    if isinstance(value, str | int | float | bool | type(None)):
        return value
    if isinstance(value, list | tuple | set):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return f"<{type(value).__name__}>"


def judge(arguments: Sequence[Sequence[str]], values: Sequence[tuple[str, list[str], Any]]) -> dict[str, Any]:
    """Import the package, read its parser and registries, parse `arguments`, and judge `values`: flag, path of a key, value."""
    sys.meta_path.insert(0, _Before())
    sys.meta_path.append(_After())
    importlib.metadata.version = _version  # type: ignore[assignment]
    parsing = importlib.import_module("vllm.utils.argparse_utils")
    name = next(each for each in ENTRIES if (Path(sys.path[0]) / each.replace(".", "/")).with_suffix(".py").is_file())
    parser = importlib.import_module(name).make_arg_parser(parsing.FlexibleArgumentParser())
    flags = {
        option[2:]: {
            "dest": action.dest,
            "action": type(action).__name__,
            "nargs": action.nargs,
            "default": _plain(action.default),
            "choices": _plain(list(action.choices)) if action.choices is not None else None,
            "type": getattr(action.type, "__qualname__", str(action.type)),
        }
        for option, action in parser._option_string_actions.items()
        if option.startswith("--") and option != "--help"
    }
    return {
        "flags": flags,
        "parsed": [_complaint(parser, each) for each in arguments],
        "keys": keys_of(parser),
        "refused": [
            refuses(config_class(parser._option_string_actions[f"--{flag}"]), path, value)
            for flag, path, value in values
        ],
        "reasoning_parsers": importlib.import_module("vllm.reasoning").ReasoningParserManager.list_registered(),
        "tool_parsers": importlib.import_module("vllm.tool_parsers").ToolParserManager.list_registered(),
        "quantization": importlib.import_module("vllm.model_executor.layers.quantization").QUANTIZATION_METHODS,
        "attention_backends": list(
            importlib.import_module("vllm.v1.attention.backends.registry").AttentionBackendEnum.__members__
        ),
    }


def config_class(action: Any) -> Any:
    """The config class that a flag's JSON becomes, None when there is none."""
    convert = action.type
    while (cells := getattr(convert, "__closure__", None)) and not getattr(convert, "__defaults__", None):
        convert = cells[0].cell_contents
    found = (getattr(convert, "__defaults__", None) or (None,))[0]
    if not hasattr(found, "__pydantic_validator__"):
        name = "".join(each.title() for each in action.dest.split("_"))
        found = getattr(importlib.import_module("vllm.config"), name, None)
    return found if hasattr(found, "__pydantic_validator__") else None


def keys_of(parser: Any) -> dict[str, list[str]]:
    """Flag -> the keys that its config class takes."""
    found = {}
    for action in parser._actions:
        config = config_class(action)
        if config is not None:
            fields = config.__dataclass_fields__.values()
            kept = [each.name for each in fields if each._field_type is not dataclasses._FIELD_CLASSVAR and each.init]  # type: ignore[attr-defined]
            found[action.option_strings[0][2:]] = [name for name in kept if not _unexpected(config, name)]
    return found


def _unexpected(config: Any, name: str) -> bool:
    return any(each.startswith("unexpected") for each in _errors(config, [name], None, parsed=False))


def refuses(config: Any, path: list[str], value: Any) -> bool:
    """Whether pydantic refuses a value of a key, as JSON and as Python has it. Other keys that are missing do not count."""
    return all(bool(_errors(config, path, value, parsed=each)) for each in (True, False))


def _errors(config: Any, path: list[str], value: Any, *, parsed: bool) -> list[str]:
    import pydantic

    # What it does with values that were taken needs a GPU, or other values.
    config.__post_init__ = lambda self, *_, **__: None
    document: Any = value
    for key in reversed(path):
        document = {key: document}
    try:
        if parsed:
            pydantic.TypeAdapter(config).validate_json(json.dumps(document))
        else:
            config(**document)
    except pydantic.ValidationError as error:
        return [each["type"] for each in error.errors() if each["loc"][:1] == tuple(path[:1])]
    except KeyError:
        return ["no member of an enumeration"]
    except Exception:  # noqa: BLE001  a check of all values together, which needs what is not installed
        return []
    return []


class _RefusedError(Exception):
    pass


def _complaint(parser: Any, arguments: Sequence[str]) -> str | None:
    """What the parser says against a command line; None when it takes it."""

    def refuse(message: str) -> None:
        raise _RefusedError(message)

    parser.error = refuse
    try:
        parser.parse_args(list(arguments))
    except _RefusedError as refused:
        return str(refused)
    return None


if __name__ == "__main__":
    folder, output, *more = sys.argv[1:]
    lines = json.loads(Path(more[0]).read_text()) if more else []
    # The package looks at its own command line.
    sys.argv = ["vllm"]
    sys.path[0] = folder
    result = judge(lines, json.loads(Path(more[1]).read_text()) if more[1:] else [])
    Path(output).write_text(json.dumps(result))
