"""One command for each figure; the peers are in requirements.txt here."""
