"""From files to batches: readers, examples, collation."""
