"""`builder checkpoint quantize`."""

from __future__ import annotations

from pathlib import Path

import click

from builder.cli.app import common_options
from builder.cli.console import Console
from builder.util.context import Context


@click.command(name="quantize")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--tensor", "tensors", multiple=True, help="A table to quantize, in place of the vocabulary's. Repeatable."
)
@click.option(
    "--search", is_flag=True, help="Pick each block's scale by its squared error: slower, about 1.5 % better."
)
@click.option("--copy", is_flag=True, help="Copy the other files, even where they could be shared with SOURCE.")
@click.option(
    "--threads", type=click.IntRange(1, 64), help="Threads for the arithmetic; the bytes do not depend on it."
)
@click.option("--no-cache", is_flag=True, help="Read every byte again, whatever was hashed before.")
@common_options
def command(
    source: Path, dest: Path, tensors: tuple[str, ...], search: bool, copy: bool, threads: int | None, no_cache: bool,
    console: Console,
) -> None:  # fmt: skip
    """Make the checkpoint DEST from SOURCE, with lm_head and embed_tokens in block FP8."""
    from builder.checkpoint.quantize.run import quantize

    made = quantize(
        source,
        dest,
        context=Context(console),
        tensors=tensors,
        search=search,
        copy=copy,
        threads=threads,
        cache=not no_cache,
    )
    ways = {"reflink": "shared by reflink", "hardlink": "hard links: do not edit them in place", "copy": "copied"}
    for each in made.tables:
        rows, cols = each.table.shape
        console.out(
            f"{each.table.name}: [{rows}, {cols}] BF16 {rows * cols * 2 / 2**30:.3f} GiB -> F8_E4M3"
            f" {rows * cols / 2**30:.3f} GiB, relative RMS error {each.relative_rms_error:.6f}"
        )
    console.out(f"other files  {ways[made.way]}")
    console.out(f"saved        {made.saved:,} bytes ({made.saved / 2**30:.2f} GiB)")
    console.out(f"source       {made.source.digest}")
    console.out(f"digest       {made.target.digest}")
    console.document(
        {
            "source": {"path": str(source), "digest": made.source.digest},
            "path": str(dest),
            "digest": made.target.digest,
            "files": [{"path": path, "sha256": sha256, "size": size} for path, sha256, size in made.target.files],
            "others": made.way,
            "saved": made.saved,
            "quantized_before": list(made.done_before),
            "tensors": [
                {
                    "name": each.table.name,
                    "shard": each.table.shard,
                    "shape": list(each.table.shape),
                    "scale": each.table.scale_name,
                    "relative_rms_error": each.relative_rms_error,
                }
                for each in made.tables
            ],
        }
    )
