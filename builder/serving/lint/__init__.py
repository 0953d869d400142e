"""Profiles judged against the source of the vLLM that will run them."""
