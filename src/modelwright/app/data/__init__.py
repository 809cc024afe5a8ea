"""The verb ``data``: build shards of tokens, check them, count them, look at them."""
