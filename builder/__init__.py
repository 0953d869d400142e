"""Builds vLLM images with pull requests applied, reproducible to the digest."""

__version__ = "0.1.0"
