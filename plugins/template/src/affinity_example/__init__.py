"""A strategy and a policy for numa-affinity."""
