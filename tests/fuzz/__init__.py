"""Hostile input for every door: valid things, damaged, and one turn of whoever stands behind (``make fuzz``)."""
