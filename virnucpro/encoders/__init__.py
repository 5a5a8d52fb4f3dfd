"""Token ids in, one vector per sequence out: the networks, their weights and tokenizers."""
