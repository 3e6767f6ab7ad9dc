"""Other libraries that arrayd fits itself into."""
