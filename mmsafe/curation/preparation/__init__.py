"""Data sets of any reader as one that `datasets` and TRL load: parquet or Arrow files, written as rows are read."""
