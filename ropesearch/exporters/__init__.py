"""What leaves: a base set as a table and as tensors, in the formats that training code reads."""
