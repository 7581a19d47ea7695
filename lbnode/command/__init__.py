"""``samegate``: what an operator asks of a running load balancer. It reads the Kubernetes API and the agents' pages, and judges nothing anew."""
