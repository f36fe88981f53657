"""Optimisers: `conf/optimizer/`."""
