"""Categories for data sets that have none: what `mmsafe.tag` does."""
