"""What the experiments share: data, networks, training, checkpoints, records, tables, plots."""
