"""One sequence of tokens a row: labelled texts, pairs, instructions, preferences."""
