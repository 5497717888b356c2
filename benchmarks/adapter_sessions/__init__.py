"""Sessions of the adapters, in processes of the adapters' own environment: it has what they need, and little else."""
