"""Position schemes, such as YaRN and NTK-aware scaling, and the one line of text that names each."""
