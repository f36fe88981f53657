"""LLaVA: loading, prompts, the tiny model."""
