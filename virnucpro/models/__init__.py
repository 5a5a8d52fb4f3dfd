"""What a model is made of, where its files lie, and how they get there."""
