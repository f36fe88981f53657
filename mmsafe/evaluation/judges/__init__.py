"""Judges, one file each: `conf/judge/`."""
