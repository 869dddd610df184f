"""Runs that are stopped again and again, and must come out as if they had not been."""
