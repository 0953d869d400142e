"""Every flag of `vllm serve`, read from the package's source."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from builder.vllm.reader.configs import Field
from builder.vllm.reader.interpreter import Interpreter
from builder.vllm.reader.keys import Key
from builder.vllm.reader.modules import Module, Modules, place
from builder.vllm.reader.source import Source
from builder.vllm.reader.values import ClassRef, FunctionRef, Opaque, ParserRef, Unknown, is_plain

ValueType = Literal["int", "float", "str", "json", "json_or_str", "human_int", "human_int_or_auto", "unknown"]

# Where `make_arg_parser` of the server is defined, newest first.
ENTRIES = (
    "entrypoints/common/cli_args.py",
    "entrypoints/launchers/cli_args.py",
    "entrypoints/openai/cli_args.py",
)
NOT_KNOWN = object()
_DEPRECATED = re.compile(
    r"^\s*\[?deprecated\b|\b(?:is|are|has been|have been|was|now)\s+deprecated\b|\bdeprecated:", re.IGNORECASE
)
_TYPES: Mapping[str, ValueType] = {
    "int": "int", "float": "float", "str": "str", "json": "json", "config": "json", "json.loads": "json",
    "human_int": "human_int", "human_int_or_auto": "human_int_or_auto",
    "human_readable_int": "human_int", "human_readable_int_or_auto": "human_int_or_auto", "union_dict_and_str": "json_or_str",
}  # fmt: skip


@dataclass(frozen=True)
class Flag:
    """One flag. Names are without dashes; `None` in `choices` means that any value of the type is taken."""

    name: str
    names: tuple[str, ...]
    """All long spellings that set it on or give it a value, `name` first."""
    negative: tuple[str, ...]
    """Long spellings that switch it off."""
    short: tuple[str, ...]
    dest: str
    switch: bool
    """Takes no value."""
    type: ValueType
    nargs: int | str | None
    optional: bool
    """Takes `None` for "not set"."""
    choices: tuple[Any, ...] | None
    members: tuple[str, ...]
    """Names that an enumeration has; letter case does not matter."""
    known: tuple[str, ...]
    """Names that the source lists where any text is taken."""
    keys: tuple[str, ...]
    """Of a flag that takes a JSON object: the keys that are taken; empty when they are not known."""
    typed: tuple[Key, ...]
    """Of these keys, those whose values are known."""
    folds_keys: bool
    """Whether dashes in keys are underscores."""
    expands: bool
    """Whether its JSON may have numbers such as `80m`."""
    folds_case: bool
    default: Any
    """`NOT_KNOWN` when only running the package tells."""
    effective: Any
    """What a default of "not set" becomes, where the config class defines it. `NOT_KNOWN` when it does not."""
    limits: tuple[tuple[str, float], ...]
    deprecated: str | None
    unread: str
    """What of the flag could not be read; empty when all of it was."""
    place: str

    def key(self, name: str) -> Key | None:
        """What is known of a key, such as `pass_config.enable_sp`."""
        return next((each for each in self.typed if each[0] == name), None)

    @property
    def takes_keys(self) -> bool:
        """Whether `--flag.key value` works."""
        return self.type in ("json", "json_or_str")


@dataclass
class Catalog:
    """The flags of one release, and what could not be read."""

    flags: dict[str, Flag] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)

    def lookup(self) -> dict[str, tuple[Flag, bool]]:
        """Every long spelling -> its flag, and whether the spelling switches it off."""
        found: dict[str, tuple[Flag, bool]] = {}
        for flag in self.flags.values():
            found |= dict.fromkeys(flag.names, (flag, False)) | dict.fromkeys(flag.negative, (flag, True))
        return found


def read_flags(source: Source) -> Catalog:
    """Read the flags. What cannot be followed is named in the catalog's gaps, never raised."""
    catalog = Catalog()
    modules = Modules(source)
    form = _form(source)

    def add(module: Module, node: ast.Call, names: list[Any], keywords: dict[str, Any]) -> None:
        where = place(module, node)
        known = [each for each in names if isinstance(each, str)]
        if len(known) != len(names) or not known:
            catalog.gaps.append(f"{where}: a flag whose name only running tells")
            return
        if not any(each.startswith("-") for each in known):
            return
        flag = _flag(known, keywords, where, form)
        catalog.flags[flag.name] = flag

    interpreter = Interpreter(modules, add, catalog.gaps.append)
    for entry in ENTRIES:
        module = modules.at(f"{source.package}/{entry}")
        symbol = module.symbols.get("make_arg_parser") if module is not None else None
        if module is not None and symbol is not None and isinstance(symbol.node, ast.FunctionDef):
            try:
                interpreter.call(FunctionRef(module, symbol.node), {_first(symbol.node): ParserRef()})
            except RecursionError:
                catalog.gaps.append(f"{module.path}: nested too deeply")
            break
    else:
        catalog.gaps.append(f"{source.name} has no make_arg_parser in {', '.join(ENTRIES)}")
    if len(catalog.flags) < 20 and not catalog.gaps:
        catalog.gaps.append(f"only {len(catalog.flags)} flags were found")
    return catalog


def _first(node: ast.FunctionDef) -> str:
    return node.args.args[0].arg if node.args.args else "parser"


@dataclass(frozen=True)
class _Form:
    """How the parser of a release reads what is given."""

    pairs: bool
    """Whether it takes `--disable-x` for `--no-enable-x`."""
    expands: bool
    """Whether the JSON of a config may have numbers such as `80m`."""
    folded: frozenset[str]
    """The fields whose keys may have dashes."""


def _form(source: Source) -> _Form:
    parsing = source.text(f"{source.package}/utils/argparse_utils.py") or ""
    arguments = source.text(f"{source.package}/engine/arg_utils.py") or ""
    folded = re.findall(
        r"""self\.(\w+) = \{\s*k\.replace\(["']-["'], ["']_["']\): v for k, v in self\.\1\.items\(\)\s*\}""", arguments
    )
    return _Form(
        "_inverse_prefixes" in parsing and "EnableDisableAction" in parsing,
        "def _expand_json_human_readable_numbers(" in arguments,
        frozenset(folded),
    )


def _flag(names: list[str], keywords: dict[str, Any], where: str, form: _Form) -> Flag:
    long = [each[2:] for each in names if each.startswith("--")]
    short = tuple(each for each in names if not each.startswith("--"))
    entry = keywords.get("_field")
    entry = entry if isinstance(entry, Field) else None
    action = keywords.get("action")
    action_name = action.name if isinstance(action, Opaque) else action
    boolean = isinstance(action_name, str) and action_name.endswith("BooleanOptionalAction")
    switch = boolean or action_name in ("store_true", "store_false", "store_const", "count")
    negative = [f"no-{each}" for each in long] if boolean else []
    if boolean and form.pairs:
        negative += [swapped for each in long if (swapped := _swapped(each)) is not None]
    kind, optional, folds = _type_of(keywords.get("type", Opaque("str")))
    default = keywords.get("default", False if switch and not boolean else None)
    nargs = keywords.get("nargs")
    name = long[0] if long else names[0]
    dest = str(keywords.get("dest") or name.replace("-", "_"))
    return Flag(
        name=name,
        names=tuple(long),
        negative=tuple(negative),
        short=short,
        dest=dest,
        switch=switch,
        type="str" if switch else ("unknown" if "_unknown" in keywords else kind),
        nargs=nargs if isinstance(nargs, int | str) else None,
        optional=optional,
        choices=_choices(keywords.get("choices")),
        members=tuple(keywords.get("_members", ())),
        known=tuple(str(each) for each in _listed(keywords)),
        keys=tuple(keywords.get("_keys", ())),
        typed=tuple(keywords.get("_typed", ())),
        folds_keys=dest in form.folded,
        expands=form.expands and _is_config(keywords.get("type")),
        folds_case=folds,
        default=default if is_plain(default) else NOT_KNOWN,
        effective=_effective(entry, default),
        limits=entry.limits if entry is not None else (),
        deprecated=_deprecated(keywords),
        unread="" if switch else _unread(keywords, kind),
        place=entry.place if entry is not None else where,
    )


def _effective(entry: Field | None, default: Any) -> Any:
    """A switch's own default in the config class, or the class's `DEFAULT_NAME`; numbers are set late, by the GPU."""
    if entry is None or default is not None:
        return NOT_KNOWN
    if isinstance(entry.default, bool):
        return entry.default
    return (
        entry.fallback
        if entry.default is None and entry.fallback is not None and is_plain(entry.fallback)
        else NOT_KNOWN
    )


def _listed(keywords: Mapping[str, Any]) -> list[Any]:
    listed = keywords.get("metavar")
    return listed if isinstance(listed, list) and is_plain(listed) else []


def _unread(keywords: Mapping[str, Any], kind: ValueType) -> str:
    if "_unknown" in keywords:
        return str(keywords["_unknown"])
    if isinstance(keywords.get("action"), ClassRef):
        return "what its own action does with the value"
    if "choices" in keywords and _choices(keywords["choices"]) is None:
        return "the choices"
    return "how the value is converted" if kind == "unknown" else ""


def _swapped(name: str) -> str | None:
    for prefix, inverse in (("enable-", "disable-"), ("disable-", "enable-")):
        if name.startswith(prefix):
            return inverse + name.removeprefix(prefix)
    return None


def _type_of(value: Any) -> tuple[ValueType, bool, bool]:
    """A converter as the parser has it -> kind of value, whether `None` is taken, whether letter case is folded."""
    if isinstance(value, Opaque):
        if value.name in ("optional", "parsed"):
            kind, _, folds = _type_of(value.inner)
            return kind, value.name == "optional", folds
        if value.name == "lambda" and re.fullmatch(r"\w+\.lower\(\)\.replace\('-', '_'\)", str(value.inner)):
            return "str", False, True
        return _TYPES.get(value.name, "unknown"), False, False
    if isinstance(value, FunctionRef):
        returns = value.node.returns.id if isinstance(value.node.returns, ast.Name) else ""
        return _TYPES.get(value.node.name, _TYPES.get(returns, "unknown")), False, False
    return "unknown", False, False


def _is_config(value: Any) -> bool:
    """Whether a converter reads JSON into a config class, and does not leave that to others."""
    return isinstance(value, Opaque) and (
        value.name == "config" or (value.name == "optional" and _is_config(value.inner))
    )


def _choices(value: Any) -> tuple[Any, ...] | None:
    if not isinstance(value, list | tuple) or any(isinstance(each, Unknown | Opaque) for each in value):
        return None
    return tuple(each for each in value if each not in (None, "None"))


def _deprecated(keywords: Mapping[str, Any]) -> str | None:
    text = keywords.get("help")
    if keywords.get("deprecated") is True:
        return "it is marked as deprecated"
    if not isinstance(text, str):
        return None
    # Only what is about the flag as a whole: deep in a text, "deprecated" is about something else.
    sentences = re.split(r"(?<=[.!])\s+", " ".join(text.split()))[:2]
    return next((sentence for sentence in sentences if _DEPRECATED.search(sentence)), None)
