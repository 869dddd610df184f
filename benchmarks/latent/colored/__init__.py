"""What the experiment on coloured digits is made of: its data, its search, what latents hold."""
