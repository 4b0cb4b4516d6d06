"""What is shown: ``series.handle`` remembers it, ``layout.arrange`` says where it stands. No clock, no files."""
