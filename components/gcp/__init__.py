"""GCP: GKE Standard, edge nodes as VMs outside the cluster, and Cloud Router (or a passthrough balancer) that leads to them."""
