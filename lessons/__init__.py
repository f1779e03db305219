"""Twelve lessons on one package: see README.md."""
