"""Log-scales of arrays as linear forms, and the equations between them."""
