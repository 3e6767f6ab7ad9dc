"""What is made for those who install arrayd: manual pages, completions, the package."""
