"""The main jobs: train, evaluate, blind, and what becomes of their weights."""
