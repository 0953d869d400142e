"""What ties an image to its record and its lock: labels of its config, and its entrypoint."""

from __future__ import annotations

from typing import Final

ENTRYPOINT: Final = ("/opt/builder/serve",)
RECORD_LABEL: Final = "dev.overlay-image-builder.record"
INPUTS_LABEL: Final = "dev.overlay-image-builder.inputs"
