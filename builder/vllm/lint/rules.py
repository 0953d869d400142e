"""Rules about one flag at a time: does it exist, does it take this value, does it change anything."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from builder.documents.profile import key_text
from builder.vllm.flagvalues import of_key, shown
from builder.vllm.lint import keyvalues
from builder.vllm.lint.context import Context, Entry
from builder.vllm.lint.converted import convert, kind_of
from builder.vllm.lint.findings import Finding
from builder.vllm.lint.keys_together import successors
from builder.vllm.lint.limits import COMPARE, outside
from builder.vllm.lint.near import near_name
from builder.vllm.lint.removed import advice, replacement, source_of
from builder.vllm.lint.variables import wants
from builder.vllm.lint.written import as_taken, broken_json
from builder.vllm.reader.flags import NOT_KNOWN, Flag
from builder.vllm.reader.keys import Key

# Whether it is on by itself depends on the model (hybrid ones: since 0.26.0).
_DEFAULT_BY_MODEL = {"enable-prefix-caching"}
_SHOWN = 8


def known_flags(context: Context) -> Iterator[Finding]:
    """Every flag exists in this version, spelt out, and once."""
    catalog = context.package.catalog
    names = list(catalog.lookup())
    seen: dict[str, Entry] = {}
    for entry in context.entries:
        if entry.flag is None:
            yield _unknown(context, entry, names)
            continue
        if entry.flag.dest == "model":
            yield context.say(
                "model-in-profile", "error", "a profile does not name the model: the entrypoint passes it first",
                entry=entry, hint="remove it; BUILDER_MODEL names another model",
            )  # fmt: skip
        earlier = seen.get(entry.flag.dest)
        if earlier is not None and not (entry.inner or earlier.inner):
            yield context.say(
                "flag-twice", "error", f"--{entry.name} and --{earlier.name} are the same flag; the later one wins",
                entry=entry, hint=f"keep one of them: {earlier.key} is at {context.document.at(('flags', earlier.key), key=True)}",
            )  # fmt: skip
        elif earlier is not None and bool(entry.inner) != bool(earlier.inner):
            yield context.say(
                "flag-twice", "error", f"--{entry.key} and --{earlier.key}: vLLM takes the keys, and drops the value as a whole",
                entry=entry, hint=f"write all of {entry.flag.name} as one value, or each key in a line of its own",
            )  # fmt: skip
        seen[entry.flag.dest] = entry


def _unknown(context: Context, entry: Entry, names: list[str]) -> Finding:
    catalog = context.package.catalog
    begin = [name for name in names if name.startswith(entry.name)]
    if len(begin) == 1 and not catalog.gaps:
        return context.say(
            "abbreviated-flag", "error", f"--{entry.name} is an abbreviation of --{begin[0]}: it stops working when another flag begins with the same letters",
            entry=entry, hint=f"write {begin[0]}",
        )  # fmt: skip
    removed = replacement(entry.name)
    near = near_name(entry.name, names)
    meant = f"{near}.{entry.inner}" if entry.inner else near
    hint = f"did you mean {meant}?" if near else "`vllm serve --help=all` lists the flags"
    if removed is not None:
        hint = f"{advice(entry.name, entry.value, removed, context.has, context.given, wants(context))} ({source_of(removed)})"
    short = next((flag for flag in catalog.flags.values() if f"-{entry.name}" in flag.short), None)
    if short is not None:
        whole = f"{short.name}.{entry.inner}" if entry.inner else short.name
        hint = f"-{entry.name} is short for --{short.name}; write {whole}"
    positive = catalog.lookup().get(entry.name.removeprefix("no-"))
    if positive is not None and positive[0].type == "unknown":
        return _unread(context, entry, positive[0])
    if catalog.gaps:
        return context.say(
            "unknown-flag", "not-checked", f"whether {context.vllm} has --{entry.name} is not known: {catalog.gaps[0]}",
            entry=entry, hint=hint,
        )  # fmt: skip
    what = f"{context.vllm} has no flag --{entry.name}" + (" any more" if removed is not None else "")
    return context.say("unknown-flag", "error", what, entry=entry, hint=hint)


def values(context: Context) -> Iterator[Finding]:
    """Every flag gets a value of its type, in its range and among its choices."""
    for entry in context.entries:
        if entry.flag is None:
            continue
        if entry.flag.type == "unknown":
            yield _unread(context, entry, entry.flag)
        elif entry.inner:
            yield from _inner(context, entry, entry.flag)
        elif entry.flag.switch:
            yield from _switch(context, entry, entry.flag)
        else:
            yield from _value(context, entry, entry.flag)


def _unread(context: Context, entry: Entry, flag: Flag) -> Finding:
    return context.say(
        "value", "not-checked", f"--{flag.name}: {flag.unread} could not be read from the source", entry=entry
    )


def _inner(context: Context, entry: Entry, flag: Flag) -> Iterator[Finding]:
    if not flag.takes_keys:
        yield context.say(
            "takes-no-keys", "error", f"--{flag.name} takes a plain value, not --{flag.name}.{entry.inner}", entry=entry
        )
        return
    name, *below = entry.inner.split(".")
    value: Any = of_key(key_text(entry.value))
    for each in reversed(below):
        value = {each: value}
    yield from _keys(context, entry, flag, {name: value})


def _keys(context: Context, entry: Entry, flag: Flag, given: Mapping[str, Any]) -> Iterator[Finding]:
    unsure = not flag.keys
    for key, value in keyvalues.leaves(_folded(flag, given), flag.keys):
        typed = flag.key(key)
        if flag.keys and key not in flag.keys:
            yield _unknown_key(context, entry, flag, key)
        elif typed is None or (taken := keyvalues.takes(typed, value)) is None:
            unsure = True
        elif not taken:
            yield _refused_key(context, entry, flag, typed, value)
    if unsure:
        yield context.say(
            "json-value", "not-checked", f"what is inside --{flag.name} is not checked further", entry=entry
        )


def _folded(flag: Flag, given: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key.replace("-", "_"): value for key, value in given.items()} if flag.folds_keys else given


def _unknown_key(context: Context, entry: Entry, flag: Flag, key: str) -> Finding:
    above = key.rpartition(".")[0]
    beside = [each for each in flag.keys if each.rpartition(".")[0] == above]
    new = successors(flag.name, key, flag.keys)
    near = difflib.get_close_matches(key.replace("-", "_"), beside, n=1, cutoff=0.8 if above else 0.6)
    return context.say(
        "unknown-key", "error", f"--{flag.name} has no key {key!r} in {context.vllm}", entry=entry,
        hint=f"write {' and '.join(new)}, which took its place" if new else f"did you mean {near[0]}?" if near else f"keys: {', '.join(beside[:_SHOWN])}, ...",
    )  # fmt: skip


def _refused_key(context: Context, entry: Entry, flag: Flag, key: Key, value: Any) -> Finding:
    name, _, limits, place = key
    choices = keyvalues.listed(key)
    if choices:
        return _not_among(context, entry, "bad-choice", value, choices, name=f"{flag.name}.{name}", source=place)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return context.say(
        "out-of-range" if number and outside(limits, value) else "wrong-type", "error",
        f"--{flag.name}.{name} takes {keyvalues.wanted(key)}, not {_json(value)}", entry=entry, source=place,
        hint=_as_text(entry, key, value),
    )  # fmt: skip


def _as_text(entry: Entry, key: Key, value: Any) -> str | None:
    """For a text that the parser reads as JSON (`revision: 123`): the same, as a text in JSON."""
    scalar = isinstance(value, int | float) or value is None
    texts = any(kind == "str" for kind, _ in key[1])
    return f"write '{json.dumps(str(entry.value))}'" if entry.inner and scalar and texts else None


def _json(value: Any) -> str:
    return repr(value) if isinstance(value, str) else json.dumps(value)


def _switch(context: Context, entry: Entry, flag: Flag) -> Iterator[Finding]:
    if not isinstance(entry.value, bool):
        yield context.say(
            "switch-with-value", "error", f"--{entry.name} is a switch and takes no value, not {shown(entry.value)}",
            entry=entry, hint=f"write true for --{entry.name}" + (", false for its opposite" if flag.negative else ""),
        )  # fmt: skip
    elif entry.value is False and (entry.off or f"no-{entry.name}" not in flag.negative):
        there = ", ".join(f"--{name}" for name in (*flag.names, *flag.negative))
        yield context.say(
            "boolean-form", "error", f"false is passed as --no-{entry.name}, which {context.vllm} does not have",
            entry=entry, hint=f"it has {there}; " + ("leave the line out" if not flag.negative else "use one of these with true"),
        )  # fmt: skip


def _value(context: Context, entry: Entry, flag: Flag) -> Iterator[Finding]:
    value = entry.value
    if value is False:
        yield context.say(
            "boolean-form", "error", f"--{flag.name} takes a value; there is no --no-{entry.name}", entry=entry,
            hint="give it a value, or leave the line out",
        )  # fmt: skip
        return
    if value is True:
        if flag.nargs not in ("?", "*") and not flag.unread:
            yield context.say(
                "needs-value", "error", f"--{flag.name} needs a value, and gets none", entry=entry, hint=_takes(flag)
            )
        return
    several = list(value) if isinstance(value, tuple) else [value]
    problem = _count_problem(flag, len(several))
    if problem:
        meant = as_taken(flag, value)
        hint = f"write {meant}" if meant is not None else None
        yield context.say("wrong-count", "error", f"--{flag.name} {problem}", entry=entry, hint=hint)
        return
    if flag.unread:
        yield _unread(context, entry, flag)
        return
    for each in several:
        yield from _one(context, entry, flag, each)


def _count_problem(flag: Flag, count: int) -> str | None:
    if isinstance(flag.nargs, int):
        return f"takes {flag.nargs} values, not {count}" if count != flag.nargs else None
    if flag.nargs == "+":
        return "needs at least one value" if count == 0 else None
    if flag.nargs == "?":
        return f"takes one value at most, not {count}" if count > 1 else None
    return f"takes one value, not {count}" if flag.nargs is None and count != 1 else None


def _one(context: Context, entry: Entry, flag: Flag, value: Any) -> Iterator[Finding]:
    if flag.optional and str(value) in ("", "None"):
        return
    found = convert(flag, value)
    if flag.type == "json" and flag.keys and not isinstance(found, dict):
        # What is one config of several keys is not taken from a number or a list.
        found = NOT_KNOWN
    if found is NOT_KNOWN:
        meant = as_taken(flag, value)
        yield context.say(
            "wrong-type",
            "error",
            f"--{flag.name} takes {kind_of(flag)}, not {shown(value)}",
            entry=entry,
            hint=f"write {meant}" if meant is not None else broken_json(flag, value) or _takes(flag),
        )
        return
    if flag.choices is not None and found not in flag.choices:
        yield _not_among(context, entry, "bad-choice", str(value), [str(each) for each in flag.choices])
    elif flag.members and str(value).upper() not in flag.members and str(value).lower() != "auto":
        yield _not_among(context, entry, "unknown-name", str(value), list(flag.members))
    elif flag.known and str(value) not in flag.known:
        near = difflib.get_close_matches(str(value), flag.known, n=1)
        yield context.say(
            "value", "not-checked", f"{value!r} is not among the names that {context.vllm} lists for --{flag.name}, but it takes others too",
            entry=entry, hint=f"did you mean {near[0]}?" if near else f"listed: {', '.join(flag.known)}",
        )  # fmt: skip
    if isinstance(found, int | float) and not isinstance(found, bool):
        for kind, limit in flag.limits:
            words, holds = COMPARE[kind]
            if not holds(found, limit):
                yield context.say(
                    "out-of-range", "error", f"--{flag.name} must be {words} {limit:g}, not {value}", entry=entry,
                    hint=f"write {found / 100:g}" if kind in ("le", "lt") and limit == 1 and 1 < found <= 100 else None,
                )  # fmt: skip
    if flag.type == "json" and isinstance(found, dict):
        yield from _keys(context, entry, flag, found)


def _not_among(
    context: Context,
    entry: Entry,
    rule: str,
    value: Any,
    there: list[str],
    *,
    name: str = "",
    source: str | None = None,
) -> Finding:
    folded = {each.lower(): each for each in there}
    near = difflib.get_close_matches(str(value).lower(), list(folded), n=1, cutoff=0.5)
    hint = f"did you mean {folded[near[0]]}? " if near else ""
    return context.say(
        rule, "error", f"{context.vllm} does not know {_json(value)} for --{name or entry.name}", entry=entry,
        hint=f"{hint}known: {', '.join(there)}", source=source,
    )  # fmt: skip


def _takes(flag: Flag) -> str:
    if flag.choices:
        return f"one of: {', '.join(str(each) for each in flag.choices)}"
    if flag.type == "json" and flag.keys:
        return f"it takes {kind_of(flag)}, or one line for each key: `{flag.name}.{flag.keys[0]}: VALUE`"
    return f"it takes {kind_of(flag)}"


def deprecated(context: Context) -> Iterator[Finding]:
    """Flags that this version calls deprecated."""
    for entry in context.entries:
        if entry.flag is not None and entry.flag.deprecated:
            yield context.say("deprecated", "warning", f"--{entry.name}: {entry.flag.deprecated}", entry=entry)


def defaults(context: Context) -> Iterator[Finding]:
    """Flags that say what would hold anyway."""
    for entry in context.entries:
        flag = entry.flag
        if flag is None or entry.inner:
            continue
        default = stock_default(flag)
        if default is NOT_KNOWN or default is None:
            continue
        if not equals_default(entry, default):
            continue
        if flag.name in _DEFAULT_BY_MODEL:
            yield context.say(
                "equals-default",
                "not-checked",
                f"whether --{entry.name} is on by itself depends on the model",
                entry=entry,
            )
        else:
            yield context.say(
                "equals-default", "warning", f"{' '.join((f'--{entry.name}', _text(default))).rstrip()} is the default of {context.vllm}",
                entry=entry, hint="keep it if it is meant as a pin; without it nothing changes today",
            )  # fmt: skip


def stock_default(flag: Flag) -> Any:
    """What holds when the flag is not given; `NOT_KNOWN` when only running tells."""
    return flag.effective if flag.default is None and flag.effective is not NOT_KNOWN else flag.default


def equals_default(entry: Entry, default: Any) -> bool:
    """Whether an entry sets what holds anyway."""
    if entry.flag is None:
        return False
    if entry.flag.switch:
        return bool(entry.switched_on == default)
    return _same(entry.flag, entry.value, default)


def _same(flag: Flag, value: Any, default: Any) -> bool:
    if isinstance(value, tuple):
        return isinstance(default, list) and [convert(flag, each) for each in value] == default
    return not isinstance(value, bool) and bool(convert(flag, value) == default)


def _text(default: Any) -> str:
    return "" if isinstance(default, bool) else str(default)
