"""A profile as a file for `vllm serve --config`.

Source: `FlexibleArgumentParser.load_config_file` of vLLM 0.20.0 to 0.33.0: `true` is a bare switch, `false` is passed over, a list
is one flag with several values, and any other value becomes one argument of its own.
"""

from __future__ import annotations

import re
from typing import Any

from builder.documents.profile import Profile, key_text
from builder.util.errors import InputError

_NUMBER = re.compile(r"-[0-9.]+")


def config_text(profile: Profile) -> str:
    """The file's text. Variables, which such a file cannot hold, are comments. Raises `InputError` for what it cannot say."""
    import yaml

    document: dict[str, Any] = {}
    for flag, value in profile.flags.items():
        texts = [str(each) for each in value] if isinstance(value, tuple) else [str(value)]
        if any(each.startswith("-") and _NUMBER.fullmatch(each) is None for each in texts):
            raise InputError(
                f"{flag}: a value that begins with a dash cannot be written into a file for `vllm serve --config`",
                hint="`builder profile show PROFILE` prints the command to serve with",
            )
        if "." in flag:
            # A bare switch would take the next argument for its value.
            document[flag] = key_text(value)
        elif value is False:
            document[f"no-{flag}"] = True
        else:
            document[flag] = list(value) if isinstance(value, tuple) else value
    lines = [f"# {profile.name}, for: vllm serve MODEL --config THIS_FILE"]
    if profile.env:
        lines.append("# Such a file holds no variables. Set these for the server:")
        lines += [f"#   {name}={text}" for name, text in profile.env.items()]
    body = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=4096) if document else "{}\n"
    return "\n".join([*lines, body])
