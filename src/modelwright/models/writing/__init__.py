"""Text from language models: caches, drawing of tokens, stop words."""
