"""The documentation site: pages, the pictures in them, and what is generated when it is built."""
