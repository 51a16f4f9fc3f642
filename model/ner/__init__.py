"""A tag for every token: named entities, parts of speech, anything that is said word by word."""
