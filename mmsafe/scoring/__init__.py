"""From examples to the log-probs of their responses."""
