"""Observe: the machine (`Topology`), the operating system (`Kernel`), and both together (`Host`)."""
