"""Built-in plugins; they import only the public names of `affinity`."""
