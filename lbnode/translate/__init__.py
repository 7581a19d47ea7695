"""From the cluster's objects to the desired data plane of one node, purely."""
