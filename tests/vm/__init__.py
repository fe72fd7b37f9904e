"""Emulated machines with several NUMA nodes, on which the guest tests run."""
