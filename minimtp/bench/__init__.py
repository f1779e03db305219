"""Measurements. Each is a command `minimtp bench NAME`, and reports its conditions, its spread, and
the cases in which minimtp is slower.
"""
