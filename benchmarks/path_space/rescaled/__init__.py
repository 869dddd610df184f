"""What the experiment on rescaled starts is made of: tasks, rows, starts, search, report."""
