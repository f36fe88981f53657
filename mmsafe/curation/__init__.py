"""Making and looking after data sets."""
