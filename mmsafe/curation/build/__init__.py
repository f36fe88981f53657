"""Multimodal preference pairs made from text-only ones (arXiv 2503.14189, section 3), in stages with a file each."""
