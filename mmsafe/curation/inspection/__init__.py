"""What is in a data set: counts, lengths, repetitions, leakage, and what is wrong with its rows."""
