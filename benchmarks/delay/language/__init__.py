"""A language model under delay: rules against stale gradients where they are met today."""
