"""Defences at inference time, one file each: what a trained model is to be compared with."""
