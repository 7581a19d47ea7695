"""Your own racks: an existing cluster, and top-of-rack routers that you configure."""
