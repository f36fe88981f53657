"""What a configuration needs of a machine."""
