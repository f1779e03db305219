"""Measurements, each a command `minimtp bench NAME`, with what it depends on, its spread, and the
cases that lose."""
