"""What every room stands on: errors, options, files, caches, processes."""
