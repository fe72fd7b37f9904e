"""What is in force, as read back from the kernel."""
