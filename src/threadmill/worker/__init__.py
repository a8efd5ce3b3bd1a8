"""The worker process: slots that claim activations and carry them out."""
