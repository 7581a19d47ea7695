"""The load balancer as Kubernetes objects: what they are (manifests, access) and how they are applied (component)."""
