"""What a smoke run asks. Czech, as the first users ask; the short prompt and its answer can be replaced on the command line."""

from __future__ import annotations

from typing import Any, Final

SHORT_PROMPT: Final = "Kolik je 2+2? Odpověz jedinou větou přesně v tomto tvaru, s číslem místo X: 2+2 je X."
SHORT_ANSWER: Final = "2+2 je 4."

TOGETHER: Final = (
    "Jaké je hlavní město České republiky? Odpověz jednou větou.",
    "Kolik dní má týden? Odpověz jednou větou.",
    "Přelož do češtiny anglickou větu: The weather is nice today.",
    "Napiš jednu větu o řece Vltavě.",
)

REASONING_PROMPT: Final = "Vlak jede 3 hodiny rychlostí 60 km/h. Kolik kilometrů ujede? Odpověz jedním číslem."

TOOL_PROMPT: Final = "Kolik je teď stupňů v Brně? Zjisti to nástrojem a odpověz jednou větou."
TOOL_RESULT: Final = {"city": "Brno", "temperature_celsius": 17}
TOOL_RESULT_SHOWS: Final = "17"
TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "current_temperature",
        "description": "Vrátí aktuální teplotu ve městě ve stupních Celsia.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Název města v prvním pádě."}},
            "required": ["city"],
        },
    },
}
