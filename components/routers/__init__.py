"""What your routers must be told to take the VIPs: generated from the same settings as the agents' share, for eight platforms. Pure."""
