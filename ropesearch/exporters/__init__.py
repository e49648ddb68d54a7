"""Write a base set as a table or as tensors, in the formats that training code reads."""
