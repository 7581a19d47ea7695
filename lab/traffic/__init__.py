"""Clients that load a VIP and say what became of each flow, connection, byte and packet.

The programs (`python -m lab.traffic flows|connections|transfer|ports|packet`) run inside the clients' network namespace and
speak JSON lines; :mod:`lab.traffic.client` starts them from outside. They import nothing but the standard library, so they
start in a fraction of a second. All times are seconds of CLOCK_MONOTONIC, which every process of a machine shares.
"""
