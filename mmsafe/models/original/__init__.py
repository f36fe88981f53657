"""Checkpoints in the format of the LLaVA authors."""
