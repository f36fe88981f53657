"""A command line, checked and run in its folder."""
