"""Values as people write them, and how a profile writes what vLLM takes instead."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from builder.vllm.flagvalues import human_int
from builder.vllm.lint.keyvalues import with_numbers
from builder.vllm.reader.flags import Flag


def as_taken(flag: Flag, value: Any) -> str | None:
    """What a profile has instead of a value that people write in another way; None when that is not known.

    Numbers as `90%`, `32 k`, `32,768`, `16KiB`, `1e5`, `0x10`, `1.5K`; lists as `1,2,4`; JSON as Python writes it; the `image=2`
    that vLLM once took for JSON.
    """
    if flag.type in ("json", "json_or_str"):
        return _json(flag, value)
    if flag.type not in ("int", "float", "human_int", "human_int_or_auto") or isinstance(value, tuple):
        return None
    if flag.nargs in ("+", "*") and (several := re.split(r"\s*,\s*|\s+", str(value).strip(" []"))) and len(several) > 1:
        return f"a list: [{', '.join(several)}]" if all(each.isdigit() for each in several) else None
    text = str(value).strip()
    if flag.type == "float" and (percent := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*%", text)):
        return f"{float(percent[1]) / 100:g}"
    found = re.fullmatch(
        r"([0-9]+(?:\.[0-9]+)?)\s*([kKmMgGtT]?)(?:i?[bB])?", re.sub(r"(?<=[0-9]),(?=[0-9]{3}\b)", "", text)
    )
    if found is None:
        whole = re.fullmatch(r"0[xX][0-9a-fA-F]+|0[oO][0-7]+|[0-9]+(?:\.0+)?(?:[eE][+]?[0-9]+)?", text)
        number = None if whole is None else int(text, 0) if text[1:2].lower() in ("x", "o") else _whole(float(text))
        return None if number is None else str(number)
    digits, unit = found.groups()
    if flag.type == "float":
        # Such flags count in the unit that their name has.
        return digits if unit in ("", "g", "G") else None
    if flag.type != "int" and unit:
        # A binary unit takes no fraction; vLLM names the decimal one instead.
        return digits + (unit if "." not in digits else unit.lower())
    number = human_int(digits + unit) if unit else _whole(float(digits))
    return None if number is None else str(number)


def _whole(number: float) -> int | None:
    return int(number) if number.is_integer() and abs(number) < 1 << 62 else None


def _json(flag: Flag, value: Any) -> str | None:
    if isinstance(flag.default, list):
        # What is a list takes one value, which is JSON.
        words = [str(each) for each in value] if isinstance(value, tuple) else [str(value)]
        return f"'{json.dumps(words)}'" if words and not any("'" in each or "[" in each for each in words) else None
    text = str(value).strip()
    pairs = [each.partition("=") for each in text.split(",")]
    if all(re.fullmatch(r"\w+", name.strip()) and number.strip().isdigit() for name, _, number in pairs):
        return " and ".join(f"`{flag.name}.{name.strip()}: {number.strip()}`" for name, _, number in pairs)
    try:
        found = ast.literal_eval(text)
        made = json.dumps(found, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return f"'{made}'" if isinstance(found, dict) and "'" not in made else None


def broken_json(flag: Flag, value: Any) -> str | None:
    """Where a text that begins as JSON is not JSON; None for any other value."""
    text = str(value).strip()
    if flag.type not in ("json", "json_or_str") or not text.startswith(("{", "[")):
        return None
    try:
        json.loads(with_numbers(text) if flag.expands else text)
    except json.JSONDecodeError as error:
        return f"it is not valid JSON from character {error.pos + 1} on: {error.msg}"
    except (ValueError, RecursionError):
        pass
    return None
