"""The samegate agent: one package, three roles (edge, worker, controller)."""

__version__ = "0.1.0"
