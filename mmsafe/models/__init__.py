"""LLaVA: loading and saving, prompts as tokens, adapters."""
