"""Every option, once: what the command line, config.json, a run's name, a resume and docs/options.md are made from."""

from .training import Settings

__all__ = ["Settings"]
