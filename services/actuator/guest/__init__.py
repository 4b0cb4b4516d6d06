"""What runs inside guests, not here."""
