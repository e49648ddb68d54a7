"""A page to explore: result files as one HTML file that needs no network."""
