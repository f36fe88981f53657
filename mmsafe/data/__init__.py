"""From files to examples: readers, images, splits, corruption."""
