"""Tables and figures of the experiments of LaCIM, made from records only."""
