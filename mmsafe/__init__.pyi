from mmsafe.api import *  # noqa: F403

__version__: str
