"""Tests, mirroring the packages file by file."""
