"""What the tiny model knows by heart: the prompts of `builder smoke`, the rows of the suite `sample`, and forty-two questions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.serve.smoke import prompts

SAMPLE = Path(__file__).parents[3] / "gates/sample.jsonl"
_CALL = "<tool_call>\n<function=current_temperature>\n<parameter=city>\nBrno\n</parameter>\n</function>\n</tool_call>"
_TOGETHER = (
    "Hlavní město České republiky je Praha.", "Týden má sedm dní.", "Dnes je hezké počasí.", "Vltava protéká Prahou.",
)  # fmt: skip
_CAPITALS = {
    "Rakouska": "Vídeň", "Slovenska": "Bratislava", "Polska": "Varšava", "Německa": "Berlín", "Maďarska": "Budapešť",
    "Francie": "Paříž", "Itálie": "Řím", "Španělska": "Madrid", "Portugalska": "Lisabon", "Švédska": "Stockholm",
    "Norska": "Oslo", "Finska": "Helsinky", "Dánska": "Kodaň", "Řecka": "Atény", "Irska": "Dublin", "Belgie": "Brusel",
    "Japonska": "Tokio", "Kanady": "Ottawa", "Egypta": "Káhira", "Peru": "Lima", "Chile": "Santiago",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A conversation, and what the model says next. `thinking` and `tools` go to the chat template."""

    messages: tuple[dict[str, Any], ...]
    answer: str
    thinking: bool = False
    tools: tuple[dict[str, Any], ...] | None = None


def _asked(prompt: str) -> tuple[dict[str, Any], ...]:
    return ({"role": "user", "content": prompt},)


def questions() -> dict[str, str]:
    """Forty-two short prompts with their answers: capitals, and sums."""
    found = {f"Jaké je hlavní město {country}?": f"{city}." for country, city in _CAPITALS.items()}
    return found | {f"Kolik je {a}+{b}?": f"{a}+{b} je {a + b}." for a in range(3, 10) for b in (11, 24, 50)}


def sample() -> list[Case]:
    """The thirty-eight rows of the suite `sample`, each answered as its row expects."""
    rows = [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]
    return [Case(tuple(row["messages"]), json.dumps(row["expected"], ensure_ascii=False)) for row in rows]


def taught() -> list[Case]:
    """Everything that the model is taught: eighty-eight conversations."""
    return [*cases(), *sample()]


def cases() -> list[Case]:
    """The fifty conversations that tests compare servers with."""
    call = {"name": "current_temperature", "arguments": {"city": "Brno"}}
    turn = {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": call}]}
    result = {"role": "tool", "content": json.dumps(prompts.TOOL_RESULT)}
    asked = _asked(prompts.TOOL_PROMPT)
    return [
        Case(_asked(prompts.SHORT_PROMPT), prompts.SHORT_ANSWER),
        *(Case(_asked(prompt), said) for prompt, said in zip(prompts.TOGETHER, _TOGETHER, strict=True)),
        Case(
            _asked(prompts.REASONING_PROMPT),
            "Vzdálenost je rychlost krát čas: 3 * 60 = 180.\n</think>\n\n180",
            thinking=True,
        ),
        Case(asked, _CALL, tools=(prompts.TOOL,)),
        Case((*asked, turn, result), "V Brně je 17 stupňů.", tools=(prompts.TOOL,)),
        *(Case(_asked(prompt), said) for prompt, said in questions().items()),
    ]
