"""Objectives: pure functions of log-probs, one file each."""
