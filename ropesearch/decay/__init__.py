"""How attention decays over distance in a real model: measured, kept in a file, predicted for other bases."""
