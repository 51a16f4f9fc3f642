"""Text: predict the next token, or the label of a text."""
