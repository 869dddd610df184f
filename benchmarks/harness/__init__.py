"""What every experiment needs: the registry, the runner, its stages, hosts and timing."""
