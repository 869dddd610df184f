"""The claims, what the records say of each, and the pages of evidence."""
