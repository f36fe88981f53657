"""Sweeps: many jobs from one command, each a process of its own, continued by the same command."""
