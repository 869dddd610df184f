"""Real images in several styles: PACS as it is, and with its labels tied to a style."""
