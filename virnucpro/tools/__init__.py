"""Around a run: prove a model, check an installation, find the best batch size."""
