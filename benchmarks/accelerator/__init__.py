"""What one accelerator measures in the minutes there are: the full presets, by worth a minute."""
