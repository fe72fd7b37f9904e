"""Rendering of values as JSON."""
