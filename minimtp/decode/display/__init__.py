"""Showing how a text came about: terminal.py in colour, trace.py as an HTML page (trace.html)."""
