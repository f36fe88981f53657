"""Prompts → generations → judgements → metrics, a file each."""
