"""mmsafe: an experiment framework for making multimodal assistants harmless."""

__version__ = "0.1.0"
