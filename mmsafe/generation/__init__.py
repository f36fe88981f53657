"""Answers, and the responses that a model makes for training."""
