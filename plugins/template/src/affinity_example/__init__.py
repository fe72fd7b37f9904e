"""A strategy, a policy and a launcher for numa-affinity."""
