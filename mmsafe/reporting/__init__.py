"""What a person reads: progress, tables, run folders."""
