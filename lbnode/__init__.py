"""The samegate agent: one package, three roles (edge, worker, controller)."""
